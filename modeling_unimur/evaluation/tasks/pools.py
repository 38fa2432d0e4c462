"""Ranking in pools that differ between dialogues."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from tqdm.auto import tqdm

from ..metrics import right_ranks

# Numbers of queries, numbers of candidates -> scores `(queries, candidates)`.
Scorer = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass
class PoolRanks:
    """What became of every wanted candidate.

    Args:
        ranks (`(wanted,)`): from 1 on; 0 where nothing is right, or what is right cannot be read.
        best (`(wanted,)`): number of the candidate that leads; -1 in an empty pool.
        best_scores (`(wanted,)`): its score; minus infinity in an empty pool.
    """

    ranks: np.ndarray
    best: np.ndarray
    best_scores: np.ndarray


def rank_in_pools(
    scorer: Scorer, queries: np.ndarray, owners: np.ndarray, golds: np.ndarray, pools: Sequence[np.ndarray]
) -> PoolRanks:
    """Ranks each right candidate among the negatives of its dialogue.

    Candidates that score exactly as high as the right one stand before it, so a constant score earns nothing. A
    negative that is the right candidate itself does not count.

    Args:
        scorer: of queries and candidates by their numbers.
        queries (`(wanted,)`): number of the query.
        owners (`(wanted,)`): number of its dialogue, in ascending order.
        golds (`(wanted,)`): number of the right candidate; -1 where there is none, and then only what leads the
            negatives is found.
        pools: for each dialogue the numbers of its negatives.

    Raises:
        ValueError: dialogues that are not in ascending order, which would score pools more than once.
    """
    queries, owners, golds = (np.asarray(column, dtype=np.int64) for column in (queries, owners, golds))
    if np.any(np.diff(owners) < 0):
        raise ValueError("Queries stand in the order of their dialogues.")
    count = len(queries)
    found = PoolRanks(np.zeros(count, np.int64), np.full(count, -1), np.full(count, -np.inf))
    bounds = np.flatnonzero(np.diff(owners, prepend=-1, append=np.iinfo(np.int64).max))
    for first, end in tqdm(list(itertools.pairwise(bounds)), desc="Pools", leave=False):
        part = slice(int(first), int(end))
        pool = np.asarray(pools[owners[first]], dtype=np.int64)
        wanted = np.unique(golds[part][golds[part] >= 0])
        every = np.concatenate([pool, wanted])
        if not len(every):
            continue
        scores = np.asarray(scorer(queries[part], every))
        right = every[None, :] == golds[part][:, None]
        # The pool, and of the right candidates that are appended to it the query's own.
        competing = right | (np.arange(len(every)) < len(pool))
        scores = np.where(competing & ~np.isnan(scores), scores, -np.inf)
        found.ranks[part] = right_ranks(scores, right)
        leads = scores.argmax(axis=1)
        found.best_scores[part] = scores[np.arange(len(scores)), leads]
        found.best[part] = np.where(np.isneginf(found.best_scores[part]), -1, every[leads])
    return found


__all__ = ["PoolRanks", "Scorer", "rank_in_pools"]
