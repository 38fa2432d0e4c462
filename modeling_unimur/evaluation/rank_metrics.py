"""Measures of rankings with graded relevance, one figure a query, on plain arrays.

A ranking is a row of document numbers, best first, -1 where nothing was returned. `judge` turns rankings and relevance
into what the measures take: the grades at each rank, and the grades that there are. The definitions are those of
`trec_eval` (`recip_rank` cut at k, `ndcg_cut`, `recall`, `success`), but for one: a query for which nothing was
returned is not left out of a mean, it counts 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Judged:
    """Rankings seen through the relevance.

    Args:
        gains (`(queries, depth)`): grade of the document at each rank; 0 where it is not relevant or there is none.
        ideal (`(queries, most)`): grades of all relevant documents of a query, highest first, then zeros. A query
            without relevance has zeros alone, and 0 by every measure.
    """

    gains: np.ndarray
    ideal: np.ndarray

    @property
    def relevant(self) -> np.ndarray:
        """Number of relevant documents of each query `(queries,)`."""
        return (self.ideal > 0).sum(axis=1)


def rank(scores: np.ndarray, depth: int) -> np.ndarray:
    """The best documents of each query.

    Documents of equal score come in the order of their numbers. A score of minus infinity (or none, NaN) means that
    the document was not returned.

    Args:
        scores (`(queries, documents)`): higher is better.
        depth: the longest ranking.

    Returns:
        `(queries, min(depth, documents))`: document numbers, -1 behind the last one returned.

    Raises:
        ValueError: scores that are no matrix, or a depth under 1.
    """
    scores = np.asarray(scores)
    if scores.ndim != 2 or depth < 1:
        raise ValueError(
            f"Scores of shape {scores.shape} at depth {depth}: pass (queries, documents), and at least 1."
        )
    depth = min(depth, scores.shape[1])
    if not depth:
        return np.empty((len(scores), 0), dtype=np.int64)
    scores = np.where(np.isnan(scores), -np.inf, scores)
    found = np.empty((len(scores), depth), dtype=np.int64)
    for number, row in enumerate(scores):
        # All that score as high as the last place, so that the order among equals is that of their numbers.
        least = np.partition(row, len(row) - depth)[len(row) - depth]
        candidates = np.flatnonzero(row >= least)
        best = candidates[np.argsort(-row[candidates], kind="stable")[:depth]]
        found[number] = np.where(np.isneginf(row[best]), -1, best)
    return found


def judge(rankings: np.ndarray, relevance: Sequence[Mapping[int, float]]) -> Judged:
    """Rankings and relevance as the arrays that the measures take.

    Args:
        rankings (`(queries, depth)`): document numbers, best first; -1 for none.
        relevance: for each query, document number -> grade; grades of 0 and below are not relevant.

    Raises:
        ValueError: other numbers of queries, or a document that is ranked twice for one query.
    """
    rankings = np.asarray(rankings, dtype=np.int64)
    if rankings.ndim != 2 or len(rankings) != len(relevance):
        raise ValueError(f"Rankings of shape {rankings.shape} for {len(relevance)} queries: one row a query.")
    gains = np.zeros(rankings.shape)
    positive = [sorted((grade for grade in grades.values() if grade > 0), reverse=True) for grades in relevance]
    ideal = np.zeros((len(relevance), max(map(len, positive), default=0)))
    for number, (row, grades) in enumerate(zip(rankings, relevance, strict=True)):
        returned = row[row >= 0]
        if len(np.unique(returned)) < len(returned):
            raise ValueError(f"Query {number}: a document stands twice in its ranking.")
        gains[number] = [max(grades.get(int(document), 0), 0) if document >= 0 else 0 for document in row]
        ideal[number, : len(positive[number])] = positive[number]
    return Judged(gains, ideal)


def mrr_at_k(judged: Judged, k: int) -> np.ndarray:
    """1 / rank of the first relevant document among the first k, else 0 `(queries,)`; its mean is MRR@k."""
    hits = judged.gains[:, : _cut(k)] > 0
    if not hits.shape[1]:
        return np.zeros(len(hits))
    return np.where(hits.any(axis=1), 1 / (hits.argmax(axis=1) + 1), 0.0)


def ndcg_at_k(judged: Judged, k: int) -> np.ndarray:
    """Discounted gain over the best that there is `(queries,)`: the grade itself is the gain, 1 / log2(rank + 1) the
    discount, as `ndcg_cut` of trec_eval."""
    best = _discounted(judged.ideal[:, : _cut(k)])
    return np.divide(_discounted(judged.gains[:, :k]), best, out=np.zeros(len(best)), where=best > 0)


def recall_at_k(judged: Judged, k: int) -> np.ndarray:
    """Share of the relevant documents that are among the first k `(queries,)`."""
    found = (judged.gains[:, : _cut(k)] > 0).sum(axis=1)
    return np.divide(found, judged.relevant, out=np.zeros(len(found)), where=judged.relevant > 0)


def hit_at_k(judged: Judged, k: int) -> np.ndarray:
    """1 where any relevant document is among the first k, else 0 `(queries,)`.

    Some reports call this recall: with two relevant documents it can be 1 where the recall is 0.5.
    """
    return (judged.gains[:, : _cut(k)] > 0).any(axis=1).astype(np.float64)


# The columns of UniVL-DR's tables (Liu et al., ICLR 2023), and hits beside them.
MEASURES = {
    "mrr@10": (mrr_at_k, 10),
    "mrr@20": (mrr_at_k, 20),
    "ndcg@10": (ndcg_at_k, 10),
    "ndcg@20": (ndcg_at_k, 20),
    "recall@20": (recall_at_k, 20),
    "recall@100": (recall_at_k, 100),
    "hit@1": (hit_at_k, 1),
    "hit@10": (hit_at_k, 10),
    "hit@20": (hit_at_k, 20),
}
DEPTH = max(k for _, k in MEASURES.values())


def all_measures(judged: Judged) -> dict[str, np.ndarray]:
    """Every measure of `MEASURES`, in percent, one figure a query."""
    return {name: 100 * measure(judged, k) for name, (measure, k) in MEASURES.items()}


def _cut(k: int) -> int:
    if k < 1:
        raise ValueError(f"A cut-off of {k}: pass at least 1.")
    return k


def _discounted(gains: np.ndarray) -> np.ndarray:
    return (gains / np.log2(np.arange(2, gains.shape[1] + 2))).sum(axis=1)


__all__ = [
    "DEPTH",
    "MEASURES",
    "Judged",
    "all_measures",
    "hit_at_k",
    "judge",
    "mrr_at_k",
    "ndcg_at_k",
    "rank",
    "recall_at_k",
]
