"""A second stage as a system: the best documents of another one, rescored."""

from __future__ import annotations

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
    """

    def __init__(self, first: Encoded, reranker: Reranker, task: RetrievalTask, top_k: int = RERANK_TOP_K):
        super().__init__(None, first.queries, {BOTH: None}, is_image=first.is_image)
        self.first, self.reranker, self.task, self.top_k = first, reranker, task, top_k

    def scores(self, kind: str, rows: np.ndarray, candidates: np.ndarray | None = None) -> np.ndarray:
        found = np.array(self.first.scores(kind, rows), dtype=np.float64)
        for place, row in enumerate(rows):
            found[place, self.task.excluded[row]] = -np.inf
        best = [ranking[ranking >= 0] for ranking in rank(found, self.top_k)]
        texts, images = self.task.doc_texts, self.task.doc_images
        pairs = [
            (self.task.query_texts[row], Candidate(texts[document], images[document] or None))
            for row, documents in zip(rows, best, strict=True)
            for document in documents
        ]
        scores, start = self.reranker.scores(pairs), 0
        for place, documents in enumerate(best):
            end = start + len(documents)
            # Above whatever the first stage gives to the others.
            found[place, documents[order(scores[start:end])]] = found[place, documents].max(initial=0.0) + np.arange(
                len(documents), 0, -1
            )
            start = end
        return found if candidates is None else found[:, candidates]


__all__ = ["SECOND_STAGE", "SecondStage"]
