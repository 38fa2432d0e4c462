"""Weighted means and their 95 % intervals, by the bootstrap over dialogues."""

from __future__ import annotations

import numpy as np

from ..significance import Interval, bootstrap

_SAMPLES = 2000


def weighted_interval(
    values: np.ndarray, clusters: np.ndarray, weights: np.ndarray | None = None, seed: int = 0, samples: int = _SAMPLES
) -> Interval:
    """Mean of the values that apply and the ends of its interval; whole clusters are drawn.

    Args:
        values (`(queries,)`): NaN where a measure does not apply to a query, which is then left out.
        clusters (`(queries,)`): what is drawn, such as the dialogue of each query.
        weights (`(queries,)`): of the mean, 1 each by default.
        seed, samples: of the resampling.

    Returns:
        `Interval`: all NaN where nothing applies.
    """
    values = np.asarray(values, dtype=np.float64)
    applies = ~np.isnan(values)
    if not applies.any():
        return Interval(np.nan, np.nan, np.nan)
    values, clusters = values[applies], np.asarray(clusters)[applies]
    names, owners = np.unique(clusters, return_inverse=True)
    if weights is None and len(names) == len(values):
        return bootstrap(values, seed, samples)
    weights = np.ones(len(values)) if weights is None else np.asarray(weights, dtype=np.float64)[applies]
    sums = np.bincount(owners, weights * values, minlength=len(names))
    counts = np.bincount(owners, weights, minlength=len(names))
    rng = np.random.default_rng(seed)
    means = np.empty(samples)
    for sample in range(samples):
        drawn = rng.integers(len(names), size=len(names))
        means[sample] = sums[drawn].sum() / max(counts[drawn].sum(), 1e-12)
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(float(sums.sum() / counts.sum()), float(low), float(high))


def paired_interval(ours, theirs, clusters, weights=None, seed: int = 0, samples: int = _SAMPLES) -> Interval:
    """Interval of the mean difference of two systems on the same queries; those that apply to both count.

    Args:
        ours, theirs, clusters, weights: as `values` and the rest of `weighted_interval`.

    Raises:
        ValueError: for other numbers of queries.
    """
    ours, theirs = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    if ours.shape != theirs.shape:
        raise ValueError(f"{len(ours)} queries against {len(theirs)}: a pair is two figures of one query.")
    return weighted_interval(ours - theirs, clusters, weights, seed, samples)


__all__ = ["paired_interval", "weighted_interval"]
