"""A second stage as a system: the best documents of another one, rescored."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import numpy as np

from ...index.second_stage import RERANK_TOP_K, Candidate, Reranker, order
from ..evaluator import Encoded
from ..metrics import rank
from ..systems.base import BOTH
from .task import RetrievalTask

SECOND_STAGE = "{} + second stage"


class SecondStage(Encoded):
    """Another system whose best documents are in the order of a reranker; those behind them stay behind.

    Args:
        first: the first stage, one index of texts and images.
        reranker: of `modeling_unimur.index.second_stage`.
        task: whose queries and documents.
        top_k: how many documents of a query are rescored.
        weight: of the reranker's scores beside those of the first stage, both scaled to 0 to 1 over the rescored
            documents of a query; infinity for the reranker's alone.
    """

    def __init__(
        self,
        first: Encoded,
        reranker: Reranker,
        task: RetrievalTask,
        top_k: int = RERANK_TOP_K,
        weight: float = math.inf,
    ):
        super().__init__(None, first.queries, {BOTH: None}, is_image=first.is_image)
        self.first, self.reranker, self.task, self.top_k, self.weight = first, reranker, task, top_k, weight
        self._known: dict[tuple[int, int], float] = {}

    def weighted(self, weight: float) -> SecondStage:
        """The same with another weight; nothing is read again."""
        other = copy.copy(self)
        other.weight = weight
        return other

    def scores(self, kind: str, rows: np.ndarray, candidates: np.ndarray | None = None) -> np.ndarray:
        found = np.array(self.first.scores(kind, rows), dtype=np.float64)
        for place, row in enumerate(rows):
            found[place, self.task.excluded[row]] = -np.inf
        best = [ranking[ranking >= 0] for ranking in rank(found, self.top_k)]
        self._read([(row, doc) for row, docs in zip(rows.tolist(), best, strict=True) for doc in docs.tolist()])
        for place, (row, documents) in enumerate(zip(rows.tolist(), best, strict=True)):
            scores = np.array([self._known[row, document] for document in documents.tolist()])
            if np.isfinite(self.weight):
                scores = _scaled(found[place, documents]) + self.weight * _scaled(scores)
            # Above whatever the first stage gives to the others.
            above = found[place, documents].max(initial=0.0) + np.arange(len(documents), 0, -1)
            found[place, documents[order(scores)]] = above
        return found if candidates is None else found[:, candidates]

    def _read(self, places: Sequence[tuple[int, int]]) -> None:
        """Scores what has none yet; settings and weights rescore the same documents."""
        new = [place for place in dict.fromkeys(places) if place not in self._known]
        texts, images = self.task.doc_texts, self.task.doc_images
        pairs = [(self.task.query_texts[row], Candidate(texts[doc], images[doc] or None)) for row, doc in new]
        if pairs:
            self._known.update(zip(new, np.asarray(self.reranker.scores(pairs)).tolist(), strict=True))


def _scaled(scores: np.ndarray) -> np.ndarray:
    """From 0, the lowest, to 1; NaN stays."""
    low, high = (np.nanmin(scores), np.nanmax(scores)) if np.isfinite(scores).any() else (0.0, 0.0)
    return (scores - low) / (high - low if high > low else 1.0)


__all__ = ["SECOND_STAGE", "SecondStage"]
