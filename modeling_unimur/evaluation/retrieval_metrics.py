"""Recall of rankings, on plain arrays."""

import numpy as np


def first_right_ranks(scores: np.ndarray, query_groups: np.ndarray, candidate_groups: np.ndarray) -> np.ndarray:
    """Rank of the best placed right answer of each query.

    A candidate is right when its group is the query's. Candidates that score exactly as high as a right answer count
    as placed before it, so a constant score earns nothing.

    Args:
        scores (`(queries, candidates)`): higher is better.
        query_groups (`(queries,)`), candidate_groups (`(candidates,)`): groups, comparable by `==`.

    Returns:
        `(queries,)`: ranks from 1 on; 0 for a query without a right answer.
    """
    scores, query_groups = np.asarray(scores), np.asarray(query_groups)
    right = query_groups[:, None] == np.asarray(candidate_groups)[None, :]
    best = np.where(right, scores, -np.inf).max(axis=1)
    ahead = ((scores >= best[:, None]) & ~right).sum(axis=1)
    return np.where(right.any(axis=1), ahead + 1, 0)


def recall_at(ranks: np.ndarray, ks: "tuple[int, ...]" = (1, 5, 10)) -> "dict[str, float]":
    """Share of queries, in percent, whose first right answer is among the first k.

    Args:
        ranks (`(queries,)`): from `first_right_ranks`; queries of rank 0 have no right answer and count as missed.
        ks: cut-offs.

    Raises:
        ValueError: without a query.
    """
    ranks = np.asarray(ranks)
    if not len(ranks):
        raise ValueError("Recall of no queries: pass at least one.")
    return {f"r{k}": float(100 * ((ranks > 0) & (ranks <= k)).mean()) for k in ks}


def cross_modal_consistency(
    text_scores: np.ndarray, image_scores: np.ndarray, text_groups: np.ndarray, image_groups: np.ndarray
) -> float:
    """Share of queries, in percent, whose first text and first picture belong to the same group, right or wrong.

    Args:
        text_scores (`(queries, texts)`), image_scores (`(queries, pictures)`): higher is better.
        text_groups (`(texts,)`), image_groups (`(pictures,)`): groups, comparable by `==`.
    """
    texts = np.asarray(text_groups)[np.asarray(text_scores).argmax(axis=1)]
    return float(100 * (texts == np.asarray(image_groups)[np.asarray(image_scores).argmax(axis=1)]).mean())


def image_retrieval_rate(text_scores: np.ndarray, image_scores: np.ndarray) -> float:
    """Share of queries, in percent, for which a picture leads the ranking of texts and pictures together.

    The scores of either kind are standardised over all queries and candidates first: a dual encoder's texts lie
    nearer to one another than to its pictures.

    Args:
        text_scores (`(queries, texts)`), image_scores (`(queries, pictures)`): of queries that ask for a picture.
    """
    best = []
    for scores in (np.asarray(text_scores, dtype=np.float64), np.asarray(image_scores, dtype=np.float64)):
        best.append(((scores - scores.mean()) / max(scores.std(), 1e-12)).max(axis=1))
    return float(100 * (best[1] > best[0]).mean())


__all__ = ["cross_modal_consistency", "first_right_ranks", "image_retrieval_rate", "recall_at"]
