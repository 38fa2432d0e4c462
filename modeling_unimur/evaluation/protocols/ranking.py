"""Ranking of all candidates for every query, a block of queries at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .encoding import Encoded

CUTOFFS = (1, 5, 10)
# Scores that exist at one time.
_CELLS = 2**25


def gold_ranks(
    system: Encoded,
    kind: str,
    queries: np.ndarray,
    golds: np.ndarray,
    excluded: Sequence[Sequence[int]] | None = None,
    candidates: np.ndarray | None = None,
) -> np.ndarray:
    """Rank of each query's right candidate among all.

    Candidates that score as high as the right one stand before it, so a constant score earns nothing.

    Args:
        system: with its queries and candidates embedded.
        kind: of the candidates.
        queries (`(wanted,)`): numbers of queries.
        golds (`(wanted,)`): numbers of the right candidates.
        excluded: for each, candidates that do not compete.
        candidates: numbers of those that compete; all by default.

    Returns:
        `(wanted,)`: from 1 on; 0 where the right candidate cannot be read, or the system does not rank the kind.
    """
    queries, golds = np.asarray(queries), np.asarray(golds)
    ranks = np.zeros(len(queries), dtype=np.int64)
    if kind not in system.kinds:
        return ranks
    every = len(system.scores(kind, queries[:1])[0]) if len(queries) else 0
    block = max(_CELLS // max(every, 1), 1)
    for start in range(0, len(queries), block):
        rows = slice(start, min(start + block, len(queries)))
        scores = system.scores(kind, queries[rows])
        places = np.arange(len(scores))
        right = scores[places, golds[rows]].copy()
        if candidates is not None:
            kept = np.zeros(scores.shape[1], dtype=bool)
            kept[candidates] = True
            scores = np.where(kept, scores, -np.inf)
        if excluded is not None:
            scores = scores.copy()
            for place, names in enumerate(excluded[rows]):
                scores[place, list(names)] = -np.inf
        scores[places, golds[rows]] = -np.inf
        ahead = (scores >= right[:, None]).sum(axis=1)
        ranks[rows] = np.where(np.isneginf(right), 0, ahead + 1)
    return ranks


def recall_values(ranks: np.ndarray, prefix: str = "", cutoffs: Sequence[int] = CUTOFFS) -> dict[str, np.ndarray]:
    """Ranks as recalls in percent, a query each; rank 0 counts as missed."""
    return {f"{prefix}r{k}": 100.0 * ((ranks > 0) & (ranks <= k)) for k in cutoffs}


__all__ = ["CUTOFFS", "gold_ranks", "recall_values"]
