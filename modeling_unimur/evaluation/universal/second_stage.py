"""A second stage as a system: the best documents of another one, rescored."""

from __future__ import annotations

import numpy as np

from ...index.second_stage import RERANK_TOP_K, Candidate, Reranker, order
from ..metrics import rank
from .systems import UniversalSystem
from .task import RetrievalTask

SECOND_STAGE = "{} + second stage"


class SecondStage(UniversalSystem):
    """Another system whose best documents are in the order of a reranker; those behind them stay behind.

    Args:
        first: the first stage.
        reranker: of `modeling_unimur.index.second_stage`.
        task: whose queries and documents.
        top_k: how many documents of a query are rescored.
        name: of the row.
    """

    def __init__(
        self,
        first: UniversalSystem,
        reranker: Reranker,
        task: RetrievalTask,
        top_k: int = RERANK_TOP_K,
        name: str | None = None,
    ):
        self.first, self.reranker, self.task, self.top_k = first, reranker, task, top_k
        self.name = name or SECOND_STAGE.format(first.name)

    def scores(self, rows: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        found = np.where(candidates, self.first.scores(rows, candidates), -np.inf)
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
        return found


__all__ = ["SECOND_STAGE", "SecondStage"]
