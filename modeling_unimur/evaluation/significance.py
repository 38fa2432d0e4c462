"""Means with 95 % intervals, by the percentile bootstrap over queries or over clusters of queries."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Resamples; the interval's ends are then stable to about a tenth of its width.
_SAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """A mean and the ends of its 95 % interval."""

    mean: float
    low: float
    high: float


def bootstrap(
    values: np.ndarray, clusters: np.ndarray | None = None, weights: np.ndarray | None = None, seed: int = 0
) -> Interval:
    """Returns the mean and its percentile interval; whole clusters are drawn. All NaN where nothing applies.

    `scipy.stats.bootstrap` is not used: it has neither clusters nor weights, and scipy is no dependency.

    Args:
        values (`(queries,)` or `(runs, queries)`): NaN where a measure does not apply to a query, which is then left
            out. Runs are averaged first.
        clusters (`(queries,)`, *optional*): what is drawn, such as the dialogue of each query; each query by default.
        weights (`(queries,)`, *optional*): of the mean, 1 each by default.
        seed: seed of the resampling.

    Raises:
        ValueError: without a value.
    """
    values = np.asarray(values, dtype=np.float64)
    values = values.mean(axis=0) if values.ndim == 2 else values
    if not values.size:
        raise ValueError("An interval of no values: pass at least one.")
    applies = ~np.isnan(values)
    if not applies.any():
        return Interval(np.nan, np.nan, np.nan)
    values = values[applies]
    weights = np.ones(len(values)) if weights is None else np.asarray(weights, dtype=np.float64)[applies]
    owners = np.arange(len(values))
    if clusters is not None:
        names, numbers = np.unique(np.asarray(clusters)[applies], return_inverse=True)
        owners = numbers if len(names) < len(values) else owners
    sums, counts = np.bincount(owners, weights * values), np.bincount(owners, weights)
    rng = np.random.default_rng(seed)
    means = np.empty(_SAMPLES)
    for sample in range(_SAMPLES):
        drawn = rng.integers(len(sums), size=len(sums))
        means[sample] = sums[drawn].sum() / max(counts[drawn].sum(), 1e-12)
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(float(sums.sum() / counts.sum()), float(low), float(high))


def paired_bootstrap(
    ours: np.ndarray,
    theirs: np.ndarray,
    clusters: np.ndarray | None = None,
    weights: np.ndarray | None = None,
    seed: int = 0,
) -> Interval:
    """Returns the interval of the mean difference of two systems on the queries that apply to both; the arguments are
    those of `bootstrap`, with values in the same order of queries.
    """
    both = (np.asarray(values, dtype=np.float64) for values in (ours, theirs))
    means = [values.mean(axis=0) if values.ndim == 2 else values for values in both]
    return bootstrap(means[0] - means[1], clusters, weights, seed)
