"""One split of a retrieval set as arrays: queries, documents and relevance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ...data.retrieval_set import KINDS, RetrievalSet

# Texts alone, images alone, one index of both (UniVL-DR's three settings).
SETTINGS = ("text", "image", "both")


@dataclass(frozen=True)
class RetrievalTask:
    """Queries and documents in the order of their tables; documents are known by their number.

    Args:
        query_ids, query_texts, query_kinds: queries of the split; the kind is "" where the set names none.
        doc_ids, doc_texts, doc_images: documents of the corpus; `doc_images` are addresses, "" for texts.
        is_image (`(documents,)`): which documents are images.
        relevance: for each query, document -> grade.
        excluded: for each query, documents that do not count for it.
        doc_groups: groups of the corpus, such as sections; "" for a document without a group.
    """

    query_ids: Sequence[str]
    query_texts: Sequence[str]
    query_kinds: Sequence[str]
    doc_ids: Sequence[str]
    doc_texts: Sequence[str]
    doc_images: Sequence[str]
    is_image: np.ndarray
    relevance: Sequence[dict[int, int]]
    excluded: Sequence[np.ndarray] = field(repr=False)
    doc_groups: Sequence[str] = field(repr=False)

    @classmethod
    def from_set(cls, retrieval: RetrievalSet, split: str, least_score: int = 1) -> RetrievalTask:
        """Reads the queries of a split that have a relevant document; one of a grade below `least_score` is not
        relevant.

        Raises:
            ValueError: an unknown split, one without a judged query, documents of an unknown kind, or relevance that
                names documents which are not in the corpus.
        """
        judgements = retrieval.relevant(split)
        corpus, queries = retrieval.corpus, retrieval.queries[split]
        doc_ids, kinds = corpus["doc_id"][:], corpus["kind"][:]
        unknown = sorted(set(kinds) - set(KINDS))
        if unknown:
            raise ValueError(f"Documents of the kinds {unknown}: a kind is one of {KINDS}.")
        numbers = {doc: number for number, doc in enumerate(doc_ids)}
        left_out = retrieval.excluded(split)
        graded = {
            query: {doc: grade for doc, grade in grades.items() if grade >= least_score}
            for query, grades in judgements.items()
        }
        relevant = {query: grades for query, grades in graded.items() if grades}
        lost = sorted({doc for grades in relevant.values() for doc in grades if doc not in numbers})
        if lost:
            raise ValueError(f"{len(lost)} relevant documents are not in the corpus, such as {lost[:3]}.")
        columns = {name: queries[name][:] for name in ("query_id", "text", "kind") if name in queries.column_names}
        judged = [row for row, query in enumerate(columns["query_id"]) if query in relevant]
        if not judged:
            raise ValueError(f"Nothing is relevant for any query of {split!r}.")
        ids = [columns["query_id"][row] for row in judged]
        groups = corpus["group"][:] if "group" in corpus.column_names else [None] * len(doc_ids)
        kinds_of = columns.get("kind", [""] * len(queries))
        return cls(
            query_ids=ids,
            query_texts=[columns["text"][row] for row in judged],
            query_kinds=[kinds_of[row] or "" for row in judged],
            doc_ids=doc_ids,
            doc_texts=[text or "" for text in corpus["text"][:]],
            doc_images=[image or "" for image in corpus["image"][:]],
            is_image=np.array([kind == "image" for kind in kinds], dtype=bool),
            relevance=[{numbers[doc]: grade for doc, grade in relevant[query].items()} for query in ids],
            excluded=[
                np.array([numbers[doc] for doc in left_out.get(query, ()) if doc in numbers], dtype=np.int64)
                for query in ids
            ],
            doc_groups=[group or "" for group in groups],
        )

    def candidates(self, setting: str) -> np.ndarray:
        """Returns which documents a setting searches `(documents,)`.

        Raises:
            ValueError: an unknown setting.
        """
        if setting not in SETTINGS:
            raise ValueError(f"An unknown setting {setting!r}: choose from {', '.join(SETTINGS)}.")
        return np.ones(len(self.is_image), bool) if setting == "both" else self.is_image == (setting == "image")

    def within(self, setting: str) -> tuple[np.ndarray, list[dict[int, int]]]:
        """Returns the queries that a setting can answer `(queries,)`, and the documents that are relevant for each of
        them there."""
        mask = self.candidates(setting)
        kept = [{doc: grade for doc, grade in grades.items() if mask[doc]} for grades in self.relevance]
        rows = np.array([row for row, grades in enumerate(kept) if grades], dtype=np.int64)
        return rows, [kept[row] for row in rows]

    def relevant_kinds(self) -> np.ndarray:
        """Returns whether texts, and whether images, are relevant for each query `(queries, 2)`."""
        found = np.zeros((len(self.relevance), 2), dtype=bool)
        for row, grades in enumerate(self.relevance):
            shown = self.is_image[list(grades)]
            found[row] = (~shown).any(), shown.any()
        return found
