"""Tuning on a development split: the weight of images, BM25's weight in the hybrid, the calibration."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..evaluator import Encoded
from ..metrics import MEASURES, judge
from ..systems.base import BOTH
from .encoding import EncodedDocuments
from .evaluate import ranked
from .modality_gap import MeanSubtraction
from .systems import Hybrid, dense_system
from .task import RetrievalTask

logger = logging.getLogger(__name__)

MEASURE = "mrr@10"
# 0 is the caption alone, 1 the paper's plain sum.
IMAGE_WEIGHTS = (0.0, 0.03, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0)
HYBRID_WEIGHTS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 2.0, 5.0)


@dataclass(frozen=True)
class Choice:
    """A value that was chosen, and the measure of every value that was tried, in percent."""

    value: float
    tried: dict[float, float]


def choose(values: Sequence[float], measure: Callable[[float], float], default: float) -> Choice:
    """The value with the highest measure; among equals the default, then the first.

    Raises:
        ValueError: no value.
    """
    if not values:
        raise ValueError("There is no value to choose from.")
    tried = {float(value): measure(value) for value in values}
    best = max(tried.values())
    winners = [value for value, found in tried.items() if found == best]
    return Choice(float(default) if default in winners else winners[0], tried)


def mean_measure(system: Encoded, task: RetrievalTask, measure: str = MEASURE) -> float:
    """Mean of one measure in the setting `both`, in percent."""
    function, depth = MEASURES[measure]
    rows, relevance = task.within(BOTH)
    return float((100 * function(judge(ranked(system, task, BOTH, rows), relevance), depth)).mean())


def choose_image_weight(
    queries: np.ndarray,
    documents: EncodedDocuments,
    dev: RetrievalTask,
    current: float = 1.0,
    weights: Sequence[float] = IMAGE_WEIGHTS,
) -> Choice:
    """The weight of images in `weight x picture + caption`.

    Warns where captions alone beat the sum at its current weight: with a weak image tower the sum of the paper does
    harm.

    Args:
        queries (`(queries, width)`): of the development split, unit vectors.
        documents: the corpus.
        dev: the development split.
        current: the model's weight.
        weights: those that are tried, besides the current one and 0.
    """

    def measure(weight: float) -> float:
        return mean_measure(dense_system(queries, documents.weighted(weight), dev.is_image), dev)

    tried = dict.fromkeys([0.0, *weights, float(current)])
    choice = choose(sorted(tried), measure, float(current))
    alone, summed = choice.tried[0.0], choice.tried[float(current)]
    if alone > summed:
        logger.warning(
            "Captions alone find more than images and captions together (%s %.1f against %.1f on the development "
            "split): set image_weight=%g instead of %g.",
            MEASURE, alone, summed, choice.value, current,
        )  # fmt: skip
    return choice


def choose_hybrid_weight(
    dense: Encoded, sparse: Encoded, dev: RetrievalTask, weights: Sequence[float] = HYBRID_WEIGHTS
) -> Choice:
    """BM25's weight beside a dense system."""
    return choose(weights, lambda weight: mean_measure(Hybrid(dense, sparse, weight), dev), 0.0)


def choose_calibration(
    queries: np.ndarray, documents: np.ndarray, dev: RetrievalTask, asked: np.ndarray | None = None
) -> tuple[MeanSubtraction | None, dict[str, float]]:
    """Mean subtraction if it helps on the development split, else None; and the measure with and without.

    Args:
        queries (`(queries, width)`), documents (`(documents, width)`): unit vectors of the development split and of
            the corpus.
        dev: the development split.
        asked (`(queries, width)`, *optional*): queries to take the mean of, the development split's by default.
    """
    means = MeanSubtraction.fit(queries if asked is None else asked, documents, dev.is_image)
    calibrated = dense_system(means.queries_of(queries), means.documents_of(documents, dev.is_image), dev.is_image)
    found = {
        "plain": mean_measure(dense_system(queries, documents, dev.is_image), dev),
        "calibrated": mean_measure(calibrated, dev),
    }
    return (means if found["calibrated"] > found["plain"] else None), found


__all__ = [
    "HYBRID_WEIGHTS",
    "IMAGE_WEIGHTS",
    "MEASURE",
    "Choice",
    "choose",
    "choose_calibration",
    "choose_hybrid_weight",
    "choose_image_weight",
    "mean_measure",
]
