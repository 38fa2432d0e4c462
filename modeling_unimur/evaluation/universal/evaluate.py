"""A system on one task in the three settings: measures, and which kind of document it prefers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tqdm.auto import tqdm

from ..evaluator import Encoded
from ..metrics import DEPTH, all_measures, judge, rank
from ..report import Figures
from ..systems.base import BOTH
from .task import SETTINGS, RetrievalTask

# Scores that are in memory at a time; the corpus of WebQA has a million documents.
_SCORES_AT_A_TIME = 2**25
# Ranks within which the kinds of documents are counted.
SHARE_DEPTH = 10


def setting_figures(
    system: Encoded, task: RetrievalTask, settings: Sequence[str] = SETTINGS, desc: str | None = None
) -> Figures:
    """Figures of every query in the settings, in percent; NaN where a setting cannot answer it.

    In the settings `text` and `image` only documents of that kind are searched, for the queries that any of them
    answers; documents that are excluded for a query are taken out of its ranking. `both images@10` is the percentage
    of images among a query's first ten documents, NaN where nothing was returned; measures of one kind of query are
    called `both mrr@10, image`.

    Args:
        system: the task's queries, and one index of its documents.
        task: the task.
        settings: those that are wanted; one that no query can be answered in is left out.
        desc: of a progress bar.

    Raises:
        ValueError: an unknown setting.
    """
    values: dict[str, np.ndarray] = {}
    kinds = np.array(task.query_kinds)
    for setting in settings:
        rows, relevance = task.within(setting)
        if not len(rows):
            continue
        rankings = ranked(system, task, setting, rows, desc=desc)
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


def ranked(
    system: Encoded,
    task: RetrievalTask,
    setting: str,
    rows: np.ndarray,
    depth: int = DEPTH,
    desc: str | None = None,
) -> np.ndarray:
    """Rankings `(queries, depth)` of some queries, in blocks that fit in memory; -1 where nothing was returned."""
    block = max(1, _SCORES_AT_A_TIME // max(len(task.is_image), 1))
    parts = []
    for start in tqdm(range(0, len(rows), block), desc=desc, disable=desc is None):
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


__all__ = ["SHARE_DEPTH", "ranked", "setting_figures"]
