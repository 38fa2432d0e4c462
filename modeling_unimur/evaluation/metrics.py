"""Ranks, recalls and graded measures of retrieval, on plain arrays.

Every recall of the project comes from `right_ranks`: the rank of the first right candidate, where candidates of equal
score stand before it, so that a constant score earns nothing.

The graded measures are those of `trec_eval` (`recip_rank` cut at k, `ndcg_cut`, `recall`, `success`) with one
difference: a query for which nothing was returned counts 0 and is not left out of the mean. There a ranking is a row
of document numbers, best first, -1 where nothing was returned; `judge` looks up the grades at each rank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

CUTOFFS = (1, 5, 10)


# -- the first right candidate ----------------------------------------------------------------------------------------
def right_ranks(scores: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Returns the rank `(queries,)` of the best placed relevant candidate of each query, from 1; 0 where no right
    candidate exists or none is returned.

    Args:
        scores (`(queries, candidates)`): higher is better; minus infinity and NaN are not returned.
        right (`(queries, candidates)`): which candidates are right.
    """
    scores, right = np.asarray(scores), np.asarray(right, dtype=bool)
    # fmax skips NaN.
    best = np.fmax.reduce(np.where(right, scores, -np.inf), axis=1, initial=-np.inf)
    ahead = ((scores >= best[:, None]) & ~right).sum(axis=1)
    return np.where(np.isneginf(best), 0, ahead + 1)


def first_right_ranks(scores: np.ndarray, query_groups: np.ndarray, candidate_groups: np.ndarray) -> np.ndarray:
    """Returns `right_ranks` where a candidate is relevant if its group `(candidates,)` is the query's `(queries,)`."""
    return right_ranks(scores, np.asarray(query_groups)[:, None] == np.asarray(candidate_groups)[None, :])


def consistency_values(
    text_scores: np.ndarray, image_scores: np.ndarray, right_texts: np.ndarray, right_images: np.ndarray
) -> np.ndarray:
    """Returns 100 for each query whose first text and first image are right for one and the same query, its own or
    another, else 0. Scores and masks are `(queries, candidates of the kind)`."""
    firsts = (
        np.asarray(right)[:, np.asarray(scores).argmax(axis=1)]
        for scores, right in ((text_scores, right_texts), (image_scores, right_images))
    )
    return 100.0 * np.logical_and(*firsts).any(axis=0)


def recall_values(ranks: np.ndarray, cutoffs: Sequence[int] = CUTOFFS, prefix: str = "") -> dict[str, np.ndarray]:
    """Returns `r1`, `r5`, ...: 100 for each query whose first relevant candidate is among the first k, else 0; names
    begin with `prefix`. Rank 0 counts as missed."""
    ranks = np.asarray(ranks)
    return {f"{prefix}r{k}": 100.0 * ((ranks > 0) & (ranks <= k)) for k in cutoffs}


def recall_at(ranks: np.ndarray, cutoffs: Sequence[int] = CUTOFFS) -> dict[str, float]:
    """Returns the means of `recall_values`: recalls in percent.

    Raises:
        ValueError: `ranks` is empty.
    """
    if not len(ranks):
        raise ValueError("Recall of no queries: pass at least one.")
    return {name: float(values.mean()) for name, values in recall_values(ranks, cutoffs).items()}


# -- graded relevance -------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class GradedRankings:
    """Rankings with the grades of their documents.

    Args:
        gains (`(queries, depth)`): grade of the document at each rank; 0 where it is not relevant or there is none.
        ideal (`(queries, most)`): grades of all relevant documents of a query, highest first, then zeros.
    """

    gains: np.ndarray
    ideal: np.ndarray

    @property
    def relevant(self) -> np.ndarray:
        """Number of relevant documents of each query `(queries,)`."""
        return (self.ideal > 0).sum(axis=1)


def rank(scores: np.ndarray, depth: int) -> np.ndarray:
    """Returns the best documents of each query.

    Documents of equal score come in the order of their numbers. A score of minus infinity (or none, NaN) means that
    the document was not returned.

    Args:
        scores (`(queries, documents)`): higher is better.
        depth: the longest ranking.

    Returns:
        `(queries, min(depth, documents))`: document numbers, -1 behind the last one returned.
    """
    scores = np.asarray(scores)
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


def judge(rankings: np.ndarray, relevance: Sequence[Mapping[int, float]]) -> GradedRankings:
    """Converts rankings and relevance to the arrays that the measures take.

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
    return GradedRankings(gains, ideal)


def mrr_at_k(judged: GradedRankings, k: int) -> np.ndarray:
    """Returns 1 / rank of the first relevant document among the first k, else 0 `(queries,)`; its mean is MRR@k."""
    hits = judged.gains[:, :k] > 0
    if not hits.shape[1]:
        return np.zeros(len(hits))
    return np.where(hits.any(axis=1), 1 / (hits.argmax(axis=1) + 1), 0.0)


def ndcg_at_k(judged: GradedRankings, k: int) -> np.ndarray:
    """Returns the discounted gain over the best possible one `(queries,)`. The gain is the grade itself and the
    discount 1 / log2(rank + 1), as `ndcg_cut` of trec_eval."""
    best = _discounted(judged.ideal[:, :k])
    return np.divide(_discounted(judged.gains[:, :k]), best, out=np.zeros(len(best)), where=best > 0)


def recall_at_k(judged: GradedRankings, k: int) -> np.ndarray:
    """Returns the share of the relevant documents that are among the first k `(queries,)`."""
    found = (judged.gains[:, :k] > 0).sum(axis=1)
    return np.divide(found, judged.relevant, out=np.zeros(len(found)), where=judged.relevant > 0)


def hit_at_k(judged: GradedRankings, k: int) -> np.ndarray:
    """Returns 1 where any relevant document is among the first k, else 0 `(queries,)`.

    Some reports call this recall: with two relevant documents it can be 1 where the recall is 0.5.
    """
    return (judged.gains[:, :k] > 0).any(axis=1).astype(np.float64)


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


def all_measures(judged: GradedRankings) -> dict[str, np.ndarray]:
    """Returns every measure of `MEASURES`, in percent, one figure per query."""
    return {name: 100 * measure(judged, k) for name, (measure, k) in MEASURES.items()}


def _discounted(gains: np.ndarray) -> np.ndarray:
    return (gains / np.log2(np.arange(2, gains.shape[1] + 2))).sum(axis=1)


# -- replies of several elements --------------------------------------------------------------------------------------
# Recall, intent F1 and MM-Relevance are those of MMDialog (Feng et al., ACL 2023). Overall recall, image retrieval
# rate and cross-modal consistency follow the abstract of UniMuR (Findings of EACL 2024); their definitions are ours.
def intent_f1(returned: Sequence[str], gold: Sequence[str]) -> float:
    """Returns the F1, 0 to 1, of two sequences of kinds aligned from the left, such as `["text", "image"]`."""
    agree = sum(one == other for one, other in zip(returned, gold, strict=False))
    return 2 * agree / max(len(returned) + len(gold), 1)


def mm_relevance(returned: np.ndarray, gold: np.ndarray) -> float:
    """Returns MM-Relevance: the harmonic mean of the similarity place by place, from the left, over the length of
    either sequence of unit vectors `(elements, width)`. 0 where either is empty, or the similarities sum to nothing.
    """
    shared = min(len(returned), len(gold))
    total = float((np.asarray(returned[:shared]) * np.asarray(gold[:shared])).sum()) if shared else 0.0
    return 2 * max(total, 0.0) / (len(returned) + len(gold)) if shared else 0.0


def threshold_for(scores: np.ndarray, wanted: np.ndarray, over_return: float) -> float:
    """Returns the least threshold at which no more than a share of the replies without a gold image get one. An image
    is returned where the score is at least the threshold.

    Args:
        scores (`(replies,)`): how much the system would return an image.
        wanted (`(replies,)`): whether there is a gold one.
        over_return: share, 0 to 1, of those that are not wanted.

    Raises:
        ValueError: no reply without a gold image.
    """
    others = np.sort(np.asarray(scores, dtype=np.float64)[~np.asarray(wanted, dtype=bool)])
    if not len(others):
        raise ValueError("Every reply has a gold image, so the over-return rate cannot be matched.")
    allowed = int(np.floor(over_return * len(others) + 1e-9))
    if allowed >= len(others):
        return -np.inf
    return float(np.nextafter(others[len(others) - allowed - 1], np.inf))


def area_under_curve(scores: np.ndarray, wanted: np.ndarray) -> float:
    """Returns the probability that a reply with a gold image scores higher than one without; equal scores count half.
    NaN if one of the two groups is empty."""
    scores, wanted = np.asarray(scores, dtype=np.float64), np.asarray(wanted, dtype=bool)
    positive, negative = np.sort(scores[wanted]), np.sort(scores[~wanted])
    if not len(positive) or not len(negative):
        return float("nan")
    below = np.searchsorted(negative, positive, side="left") + np.searchsorted(negative, positive, side="right")
    return float(below.sum() / (2 * len(positive) * len(negative)))


def aligned_recall(ranks: Sequence[int], returned: int, k: int) -> float:
    """Returns the recall@k, 0 to 1, of one reply's elements of a kind, aligned from the left: `ranks` of the gold
    elements in order, of which the first `returned` have a counterpart. Rank 0 counts as missed."""
    return sum(0 < rank <= k for rank in ranks[:returned]) / max(len(ranks), 1)
