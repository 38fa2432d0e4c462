"""What adapted heads are judged by: items that they were not trained on, among all items of the index."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from ..evaluation.metrics import first_right_ranks, recall_at
from .adapt_contexts import Groups, judging_contexts
from .dev_sets import DevSet
from .ready_items import ReadyIndex

_CUTOFFS = (1, 10)
# Queries that are scored against all candidates at a time.
_CHUNK = 64


def held_out_sets(index: ReadyIndex, groups: Groups, held_out: Sequence[int], seed: int) -> list[DevSet]:
    """From a held-out text, and from a dialogue around it, to its own item among all items of a kind."""
    sets = []
    owners = np.full(len(index.items), -1)
    for kind in groups.rows:
        for group, rows in enumerate(groups.rows[kind]):
            owners[rows] = group
    for kind in groups.rows:
        rows, chosen = index.rows(kind), [group for group in held_out if groups.rows[kind][group]]
        if not chosen:
            continue
        for name, spoken in ((f"text_to_{kind}", False), (f"dialogue_to_{kind}", True)):
            contexts = judging_contexts(groups, chosen, spoken, seed)
            sets.append(
                DevSet(name, contexts, np.array(chosen), kind, index.vectors[torch.from_numpy(rows)], owners[rows])
            )
    return sets


def ranks_of(queries: torch.Tensor, dev: DevSet, score: Callable | None = None) -> np.ndarray:
    """Ranks `(contexts,)` of the first right candidates, from 1 on.

    Args:
        queries (`(contexts, width)`): of the contexts of the set.
        dev: candidates are compared by the product, unless `score` says otherwise.
        score (*optional*): queries and candidates to scores `(queries, candidates)`.
    """
    score = score or (lambda some, candidates: some @ candidates.T)
    ranks = [
        first_right_ranks(
            score(queries[start : start + _CHUNK], dev.candidates).numpy(),
            dev.ids[start : start + _CHUNK],
            dev.candidate_ids,
        )
        for start in range(0, len(queries), _CHUNK)
    ]
    return np.concatenate(ranks)


def recall_of(queries: torch.Tensor, dev: DevSet, score: Callable | None = None) -> dict[str, float]:
    """Recalls in percent, `r1` and `r10`; the arguments are those of `ranks_of`."""
    return recall_at(ranks_of(queries, dev, score), _CUTOFFS)


def chance(dev: DevSet) -> dict[str, float]:
    """What a random order would reach."""
    names, counts = np.unique(dev.candidate_ids, return_counts=True)
    right = dict(zip(names.tolist(), counts.tolist(), strict=True))
    total, found = len(dev.candidates), {}
    for cutoff in _CUTOFFS:
        missed = []
        for group in dev.ids.tolist():
            left = [(total - right[group] - n) / (total - n) for n in range(min(cutoff, total))]
            missed.append(float(np.prod(np.maximum(left, 0))))
        found[f"r{cutoff}"] = 100 * (1 - float(np.mean(missed)))
    return found


def own_metric_score(raw: torch.Tensor, metric: str | None) -> Callable:
    """Scores of an index that keeps lengths: by inner product, or by minus the distance where its metric is `l2`.

    Args:
        raw (`(candidates, width)`): the vectors as they were stored, in the order of the set's candidates.
        metric: `inner_product` or `l2`; inner product where it is not known.
    """
    if metric == "l2":
        return lambda queries, _: -torch.cdist(queries, raw)
    return lambda queries, _: queries @ raw.T


__all__ = ["chance", "held_out_sets", "own_metric_score", "ranks_of", "recall_of"]
