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


__all__ = ["first_right_ranks", "recall_at"]
