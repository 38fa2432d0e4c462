"""Intervals by the bootstrap over queries."""

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


def bootstrap(values: np.ndarray, seed: int = 0, samples: int = _SAMPLES) -> Interval:
    """Percentile bootstrap of the mean.

    Args:
        values (`(queries,)` or `(runs, queries)`): one figure a query; runs are averaged first, queries resampled.
        seed, samples: of the resampling.

    Raises:
        ValueError: without a value.
    """
    values = np.asarray(values, dtype=np.float64)
    values = values.mean(axis=0) if values.ndim == 2 else values
    if not values.size:
        raise ValueError("An interval of no values: pass at least one.")
    rng = np.random.default_rng(seed)
    means = np.array([values[rng.integers(len(values), size=len(values))].mean() for _ in range(samples)])
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(float(values.mean()), float(low), float(high))


def paired_bootstrap(ours: np.ndarray, theirs: np.ndarray, seed: int = 0, samples: int = _SAMPLES) -> Interval:
    """Interval of the mean difference of two systems on the same queries.

    Args:
        ours, theirs (`(queries,)` or `(runs, queries)`): in the same order of queries.

    Raises:
        ValueError: for other numbers of queries.
    """
    ours, theirs = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    if ours.shape[-1] != theirs.shape[-1]:
        raise ValueError(f"{ours.shape[-1]} queries against {theirs.shape[-1]}: a pair is two figures of one query.")
    means = [values.mean(axis=0) if values.ndim == 2 else values for values in (ours, theirs)]
    return bootstrap(means[0] - means[1], seed, samples)


__all__ = ["Interval", "bootstrap", "paired_bootstrap"]
