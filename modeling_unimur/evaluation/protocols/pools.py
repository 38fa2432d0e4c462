"""Ranking in pools that differ from dialogue to dialogue."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from tqdm.auto import tqdm

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
        scores = np.where(np.isnan(scores), -np.inf, scores)
        rows, has = np.arange(len(scores)), golds[part] >= 0
        others = scores[:, : len(pool)]
        gold_scores = np.full(len(scores), -np.inf)
        places = len(pool) + np.searchsorted(wanted, golds[part][has])
        gold_scores[has] = scores[rows[has], places]
        readable = has & ~np.isneginf(gold_scores)
        ahead = (others >= gold_scores[:, None]) & (pool[None, :] != golds[part][:, None])
        found.ranks[part] = np.where(readable, ahead.sum(axis=1) + 1, 0)
        if len(pool):
            leads = others.argmax(axis=1)
            found.best[part], found.best_scores[part] = pool[leads], others[rows, leads]
        better = readable & (gold_scores > found.best_scores[part])
        found.best[part] = np.where(better, golds[part], found.best[part])
        found.best_scores[part] = np.where(better, gold_scores, found.best_scores[part])
        found.best[part] = np.where(np.isneginf(found.best_scores[part]), -1, found.best[part])
    return found


__all__ = ["PoolRanks", "Scorer", "rank_in_pools"]
