"""Measures a system in the three settings, and chooses weights on a development split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ...index.hybrid import WEIGHTS
from ..evaluator import Encoded
from ..metrics import DEPTH, all_measures, judge, mrr_at_k, rank
from ..report import Figures
from ..systems.base import BOTH
from .encoding import EncodedDocuments
from .systems import Hybrid, dense_system
from .task import SETTINGS, RetrievalTask

# Scores that are in memory at a time; the corpus of WebQA has a million documents.
_SCORES_AT_A_TIME = 2**25
# Ranks within which the kinds of documents are counted.
SHARE_DEPTH = 10
# Weights of images that are tried on a development split: 0 is the caption alone, 1 the paper's plain sum.
IMAGE_WEIGHTS = (0.0, 0.03, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0)


def setting_figures(system: Encoded, task: RetrievalTask, settings: Sequence[str] = SETTINGS) -> Figures:
    """Returns the figures of every query in the settings, in percent; NaN where a setting cannot answer it. A setting
    that no query can be answered in is left out.

    In the settings `text` and `image` only documents of that kind are searched, for the queries that any of them
    answers; documents that are excluded for a query are taken out of its ranking. `both images@10` is the percentage
    of images among a query's first ten documents, NaN where nothing was returned; measures of one kind of query are
    called `both mrr@10, image`.

    Raises:
        ValueError: an unknown setting.
    """
    values: dict[str, np.ndarray] = {}
    kinds = np.array(task.query_kinds)
    for setting in settings:
        rows, relevance = task.within(setting)
        if not len(rows):
            continue
        rankings = ranked(system, task, setting, rows)
        columns = all_measures(judge(rankings, relevance))
        if setting == BOTH:
            columns[f"images@{SHARE_DEPTH}"] = _image_shares(rankings, task)
        for measure, column in columns.items():
            values[f"{setting} {measure}"] = np.full(len(kinds), np.nan)
            values[f"{setting} {measure}"][rows] = column
        for kind in sorted(set(kinds) - {""}) if setting == BOTH else ():
            for measure in ("mrr@10", f"images@{SHARE_DEPTH}"):
                values[f"{BOTH} {measure}, {kind}"] = np.where(kinds == kind, values[f"{BOTH} {measure}"], np.nan)
    return Figures(values)


def ranked(system: Encoded, task: RetrievalTask, setting: str, rows: np.ndarray, depth: int = DEPTH) -> np.ndarray:
    """Returns rankings `(queries, depth)` of some queries, in blocks that fit in memory; -1 where nothing was
    returned."""
    block = max(1, _SCORES_AT_A_TIME // max(len(task.is_image), 1))
    parts = []
    for start in range(0, len(rows), block):
        chosen = rows[start : start + block]
        scores = system.scores(setting, chosen)
        for place, row in enumerate(chosen):
            scores[place, task.excluded[row]] = -np.inf
        found = rank(scores, depth)
        # A corpus of fewer documents than the depth.
        parts.append(np.pad(found, ((0, 0), (0, depth - found.shape[1])), constant_values=-1))
    return np.concatenate(parts) if parts else np.empty((0, depth), dtype=np.int64)


def _image_shares(rankings: np.ndarray, task: RetrievalTask) -> np.ndarray:
    first = rankings[:, :SHARE_DEPTH]
    counts, images = (first >= 0).sum(axis=1), (task.is_image[first] & (first >= 0)).sum(axis=1)
    return np.divide(100.0 * images, counts, out=np.full(len(first), np.nan), where=counts > 0)


# -- weights from a development split ---------------------------------------------------------------------------------
@dataclass(frozen=True)
class Choice:
    """A weight that was chosen, and the MRR@10 in percent of every weight that was tried."""

    value: float
    tried: dict[float, float]


def choose(weights: Sequence[float], system: Callable[[float], Encoded], dev: RetrievalTask, default: float) -> Choice:
    """Chooses the weight whose system has the highest MRR@10 in the setting `both` of the development split; among
    equals the default, then the first."""
    rows, relevance = dev.within(BOTH)

    def measure(weight: float) -> float:
        return float((100 * mrr_at_k(judge(ranked(system(weight), dev, BOTH, rows), relevance), 10)).mean())

    tried = {weight: measure(weight) for weight in weights}
    winners = [weight for weight, found in tried.items() if found == max(tried.values())]
    return Choice(default if default in winners else winners[0], tried)


def choose_image_weight(queries: np.ndarray, documents: EncodedDocuments, dev: RetrievalTask) -> Choice:
    """Chooses the weight of images in `weight x image + caption`, by the development split's queries
    `(queries, width)`, unit vectors."""

    def weighted(weight: float) -> Encoded:
        return dense_system(queries, documents.weighted(weight), dev.is_image)

    return choose(IMAGE_WEIGHTS, weighted, dev, 1.0)


def choose_hybrid_weight(dense: Encoded, sparse: Encoded, dev: RetrievalTask) -> Choice:
    """Chooses BM25's weight beside a dense system, of those that `unimur index tune-hybrid` compares."""
    return choose(WEIGHTS, lambda weight: Hybrid(dense, sparse, weight), dev, 0.0)
