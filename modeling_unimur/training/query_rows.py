"""Queries of a retrieval set with a positive and hard negatives, drawn again in every epoch."""

import logging
import random
from collections import defaultdict
from collections.abc import Container, Mapping, Sequence

from torch.utils.data import Dataset

from ..data.retrieval_set import RetrievalSet
from .documents import Documents
from .negatives import Sampler

logger = logging.getLogger(__name__)

# Query -> hard negatives among the images and among the texts, the most similar first.
Mined = Mapping[str, "tuple[list[str], list[str]]"]


_NO_PAIRS: "dict[str, list]" = {"query_id": [], "text": [], "doc_id": []}


class QueryRows(Dataset):
    """One row a query.

    A positive is drawn among the query's images, if it has any, else among its texts (UniVL-DR). Draws depend on
    the seed, the epoch and the row alone, so that a resumed run draws the same.

    Args:
        retrieval (`RetrievalSet`): the set.
        documents (`Documents`): of it.
        split: whose queries; or several splits, of which those that the set lacks are left out.
        sampler (`Sampler`): which negatives are drawn.
        mined: hard negatives by query; queries without any are left out when the sampler needs some.
        seed: of the draws.
        least_score: of a positive; relevant documents of a lower score are neither positives nor negatives.
        pairs: whether the splits' pairs are rows too.
        without: ids of queries that are left out.

    Raises:
        ValueError: no row is left.
    """

    def __init__(
        self,
        retrieval: RetrievalSet,
        documents: Documents,
        split: "str | Sequence[str]" = "train",
        sampler: "Sampler | None" = None,
        mined: "Mined | None" = None,
        seed: int = 0,
        least_score: int = 1,
        pairs: bool = False,
        without: Container[str] = (),
    ):
        self.documents, self.sampler, self.seed = documents, sampler or Sampler("in_batch"), seed
        self.without = without
        self.mined: Mined = mined or {}
        self.epoch = 0
        self.queries: list[str] = []
        self.texts: list[str] = []
        self.positives: list[list[int]] = []
        self.right: list[frozenset[int]] = []
        self.known: list[frozenset[int]] = []
        lost: dict[str, int] = defaultdict(int)
        splits = (split,) if isinstance(split, str) else split
        for name in splits:
            if name in retrieval.queries:
                self._add_split(retrieval, name, least_score, lost)
        for name in splits if pairs else ():
            table = retrieval.pairs.get(name, _NO_PAIRS)
            for query, text, doc in zip(table["query_id"], table["text"], table["doc_id"], strict=True):
                own = documents.numbers[f"pair:{query}"]
                self._add(query, text, [own], {own, documents.numbers.get(doc, own)})
        self.rows = list(range(len(self.queries)))
        if self.sampler.hard:
            self.use_mined(self.mined)
        for reason, count in lost.items():
            logger.warning("%d queries of %s left out: %s", count, ", ".join(splits), reason)
        if not self.rows:
            raise ValueError(f"No query of the split {', '.join(splits)} is left to train on.")

    def _add_split(self, retrieval: RetrievalSet, split: str, least_score: int, lost: "dict[str, int]") -> None:
        documents, table = self.documents, retrieval.queries[split]
        relevant, excluded = retrieval.relevant(split), retrieval.excluded(split)
        for query, text in zip(table["query_id"], table["text"], strict=True):
            scores = {
                documents.numbers[doc]: s for doc, s in relevant.get(query, {}).items() if doc in documents.numbers
            }
            right = [number for number, score in scores.items() if score >= least_score]
            shown = [number for number in right if documents.kinds[number] == "image"]
            others = {documents.numbers[doc] for doc in excluded.get(query, ()) if doc in documents.numbers}
            if query in self.without:
                continue
            if not text.strip() or not right:
                lost["without a positive" if not right else "empty"] += 1
            else:
                self._add(query, text, shown or right, scores.keys(), others)

    def _add(self, query: str, text: str, positives: "list[int]", right, excluded=()) -> None:
        self.queries.append(query)
        self.texts.append(text)
        self.positives.append(positives)
        self.right.append(frozenset(right))
        self.known.append(frozenset(right) | frozenset(excluded))

    def use_mined(self, mined: Mined) -> None:
        """Takes other hard negatives from now on; queries that have none are left out.

        Raises:
            ValueError: no query has any, or one is of a document that is not there.
        """
        numbers = self.documents.numbers
        lost = next((doc for kinds in mined.values() for docs in kinds for doc in docs if doc not in numbers), None)
        if lost is not None:
            raise ValueError(f"The hard negative {lost!r} is not a document of this set: mine this set's.")
        self.mined = mined
        # An epoch's number of rows stays, since a run's length depends on it.
        kept = [row for row, query in enumerate(self.queries) if any(map(len, mined.get(query, ((), ()))))]
        if not kept:
            raise ValueError("No query has hard negatives: mine them first, or mine more (data.mining_depth).")
        if len(kept) < len(self.queries):
            logger.warning("%d queries left out: without hard negatives", len(self.queries) - len(kept))
        if hasattr(self, "_length"):
            self.rows = [kept[place % len(kept)] for place in range(self._length)]
        else:
            self.rows = kept
            self._length = len(kept)

    def draw(self, epoch: int) -> None:
        """Lets the rows of another epoch be drawn."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> dict:
        row = self.rows[place]
        rng = random.Random(f"{self.seed}/{self.epoch}/{row}")
        positive = rng.choice(self.positives[row])
        images, texts = self.mined.get(self.queries[row], ((), ()))
        drawn = [self.documents.numbers[doc] for doc in self.sampler.draw(images, texts, rng)]
        return {
            "query": self.queries[row],
            "text": self.texts[row],
            "positive": positive,
            "negatives": [number for number in drawn if number not in self.known[row]],
            "known": self.known[row],
        }


__all__ = ["Mined", "QueryRows"]
