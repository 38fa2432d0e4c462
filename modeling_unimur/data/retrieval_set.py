"""A multimodal retrieval set: queries, one corpus of texts and images, and what is relevant (the MTEB layout)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset, concatenate_datasets

KINDS = ("text", "image")
# Table -> columns that it must have; further ones are kept.
COLUMNS = {
    "queries": ("query_id", "text"),
    "corpus": ("doc_id", "kind", "text", "image"),
    "qrels": ("query_id", "doc_id", "score"),
    "hard_negatives": ("query_id", "image", "text"),
    "pairs": ("query_id", "text", "positive", "doc_id"),
}
_CORPUS_SPLIT = "corpus"
_ID_COLUMNS = ("query_id", "doc_id", "group", "excluded")


@dataclass
class RetrievalSet:
    """Queries of some splits over one corpus. Tables are `datasets.Dataset`s, which need not fit in memory.

    Args:
        queries (`dict[str, Dataset]`): by split (train, validation, test): `query_id`, `text`; optionally `kind`, and
            `excluded`, a list of documents that do not count for the query.
        corpus (`Dataset`): `doc_id`, `kind` ("text" or "image"), `text` (of an image: its caption), `image` (a file's
            path or another address that `data.image_bytes` reads; "" for texts); optionally `group`, equal for
            documents of one section or figure, of which none is a hard negative where another one is relevant.
        qrels (`dict[str, Dataset]`): by split: `query_id`, `doc_id`, `score`; relevant is a score above 0.
        hard_negatives (`dict[str, Dataset]`): by split: `query_id`, and `image` and `text`, lists of ids, the most
            similar first.
        pairs (`dict[str, Dataset]`): for training only, by split: `query_id`, `text`, `positive` (a text that is no
            document of the corpus), `doc_id` (the document that holds both, which is then no negative).
        about (`dict[str, str]`): what was chosen when it was read, for reports.

    Raises:
        ValueError: a table lacks a column, or a split has queries and no qrels.
    """

    queries: Mapping[str, Dataset]
    corpus: Dataset
    qrels: Mapping[str, Dataset]
    hard_negatives: Mapping[str, Dataset] = field(default_factory=dict)
    pairs: Mapping[str, Dataset] = field(default_factory=dict)
    about: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, tables in self._tables().items():
            for split, table in tables.items():
                missing = [column for column in COLUMNS[name] if column not in table.column_names]
                if missing:
                    raise ValueError(f"The table {name} ({split}) lacks {missing}; it has {table.column_names}.")
        unjudged = sorted(set(self.queries) - set(self.qrels))
        if unjudged:
            raise ValueError(f"The queries of {unjudged} have no qrels; there are those of {sorted(self.qrels)}.")

    def _tables(self) -> dict[str, Mapping[str, Dataset]]:
        return {
            "queries": self.queries,
            "corpus": {_CORPUS_SPLIT: self.corpus},
            "qrels": self.qrels,
            "hard_negatives": self.hard_negatives,
            "pairs": self.pairs,
        }

    @classmethod
    def from_rows(
        cls,
        queries: Mapping[str, Sequence[dict[str, Any]]],
        corpus: Sequence[dict[str, Any]],
        qrels: Mapping[str, Sequence[dict[str, Any]]],
        hard_negatives: Mapping[str, Sequence[dict[str, Any]]] | None = None,
    ) -> RetrievalSet:
        """Makes one from lists of rows."""
        parts = [
            {split: Dataset.from_list(list(rows)) for split, rows in (table or {}).items()}
            for table in (queries, qrels, hard_negatives)
        ]
        return cls(parts[0], Dataset.from_list(list(corpus)), parts[1], parts[2])

    @classmethod
    def from_tables(cls, tables: Mapping[str, Mapping[str, Dataset]], group: str | None = None) -> RetrievalSet:
        """Makes one from tables by name and split, as a reader gives them: `queries`, `corpus`, `qrels` and perhaps
        `hard_negatives` and `pairs`; others are left out. The corpus column named `group` becomes `group`."""
        corpus = tables["corpus"][_CORPUS_SPLIT]
        if group is not None and group != "group":
            corpus = corpus.add_column("group", corpus[group][:])
        return cls(corpus=corpus, **{name: dict(tables.get(name, {})) for name in COLUMNS if name != "corpus"})

    @classmethod
    def union(cls, sets: Mapping[str, RetrievalSet]) -> RetrievalSet:
        """One set over the documents of several by name, so that one index holds them and one mining finds hard
        negatives.

        Ids and groups get their set's name in front (`gimp_manual/text-1`), columns that one of the sets lacks are
        left out, and a split has the queries of all sets that have it. The tables are read into memory.

        Raises:
            ValueError: no set.
        """
        if not sets:
            raise ValueError("A union needs at least one retrieval set.")
        made: dict[str, dict[str, Dataset]] = {}
        for table, columns in COLUMNS.items():
            parts: dict[str, list[Dataset]] = {}
            # Hard negatives alone have ids in the columns that hold words and addresses elsewhere.
            ids = ("query_id", "image", "text") if table == "hard_negatives" else _ID_COLUMNS
            for name, one in sets.items():
                for split, rows in one._tables()[table].items():
                    if len(rows):
                        parts.setdefault(split, []).append(_prefixed(rows, f"{name}/", ids))
            made[table] = {split: _joined(found, columns) for split, found in parts.items()}
        abouts = {f"{name} {key}": value for name, one in sets.items() for key, value in one.about.items()}
        return cls(corpus=made.pop("corpus")[_CORPUS_SPLIT], about=abouts, **made)

    # -- what is relevant -------------------------------------------------------------------------------------------
    def relevant(self, split: str) -> dict[str, dict[str, int]]:
        """`{query_id: {doc_id: score}}` of a split's queries, scores above 0 alone; queries without any are absent.

        Raises:
            ValueError: there is no such split.
        """
        if split not in self.qrels or split not in self.queries:
            raise ValueError(f"The set has no split {split!r}; it has {', '.join(sorted(self.queries))}.")
        found: dict[str, dict[str, int]] = {}
        table = self.qrels[split]
        for query, doc, score in zip(table["query_id"], table["doc_id"], table["score"], strict=True):
            if score > 0:
                found.setdefault(query, {})[doc] = int(score)
        return found

    def excluded(self, split: str) -> dict[str, list[str]]:
        """`{query_id: [doc_id]}`: what does not count for a query, where anything is named."""
        table = self.queries[split]
        if "excluded" not in table.column_names:
            return {}
        return {query: list(docs) for query, docs in zip(table["query_id"], table["excluded"], strict=True) if docs}

    # -- one folder -------------------------------------------------------------------------------------------------
    def save(self, folder: str | os.PathLike) -> None:
        """Writes `<table>-<split>.parquet` files, of the corpus `corpus-corpus.parquet`."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        for name, tables in self._tables().items():
            for split, table in tables.items():
                table.to_parquet(Path(folder) / f"{name}-{split}.parquet")

    @classmethod
    def load(cls, folder: str | os.PathLike) -> RetrievalSet:
        """Reads what `save` wrote; relative paths of images are below the folder.

        Raises:
            FileNotFoundError: the folder holds no corpus, or no queries.
            ValueError: a table lacks a column.
        """
        folder = Path(folder)
        found: dict[str, dict[str, Dataset]] = {name: {} for name in COLUMNS}
        for name, tables in found.items():
            for file in sorted(folder.glob(f"{name}-*.parquet")):
                tables[file.stem.removeprefix(f"{name}-")] = Dataset.from_parquet(str(file))
        if _CORPUS_SPLIT not in found["corpus"] or not found["queries"]:
            raise FileNotFoundError(f"{folder} contains no corpus-corpus.parquet and queries-<split>.parquet.")
        corpus = found.pop("corpus")[_CORPUS_SPLIT].map(lambda row: {"image": _below(folder, row["image"])})
        return cls(corpus=corpus, **found)


def _prefixed(rows: Dataset, prefix: str, columns: Sequence[str]) -> Dataset:
    def named(value: Any) -> Any:
        if isinstance(value, str):
            return prefix + value if value else value
        return None if value is None else [prefix + entry for entry in value]

    table = {name: rows[name][:] for name in rows.column_names}
    changed = {name: [named(value) for value in table[name]] for name in columns if name in table}
    return Dataset.from_dict(table | changed, features=rows.features)


def _joined(parts: Sequence[Dataset], required: Sequence[str]) -> Dataset:
    shared = [name for name in parts[0].column_names if all(name in part.column_names for part in parts)]
    first = parts[0].select_columns([*dict.fromkeys([*required, *shared])])
    return concatenate_datasets([part.select_columns(first.column_names).cast(first.features) for part in parts])


def _below(folder: Path, image: str | None) -> str:
    return str(folder / image) if image else ""
