"""Systems on one task in the three settings: measures with intervals, and which kind of document they prefer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tqdm.auto import tqdm

from ..metrics import DEPTH, all_measures, judge, rank
from .systems import UniversalSystem
from .task import SETTINGS, RetrievalTask

# Scores that are in memory at a time; the corpus of WebQA has a million documents.
_SCORES_AT_A_TIME = 2**25
# Ranks within which the kinds of documents are counted.
SHARE_DEPTH = 10


@dataclass(frozen=True)
class SettingResult:
    """One system in one setting.

    Args:
        rows (`(queries,)`): numbers of the queries that the setting can answer.
        measures: name (`metrics.MEASURES`) -> percent `(queries,)`.
        rankings (`(queries, 100)`): numbers of documents, -1 for none.
    """

    rows: np.ndarray
    measures: dict[str, np.ndarray]
    rankings: np.ndarray

    def mean(self, measure: str) -> float:
        """Mean over the queries, in percent."""
        return float(self.measures[measure].mean())


def evaluate_system(
    system: UniversalSystem, task: RetrievalTask, settings: Sequence[str] = SETTINGS, progress: bool = False
) -> dict[str, SettingResult]:
    """Runs a system.

    In the settings `text` and `image` only documents of that kind are searched, for the queries that any of them
    answers; documents that are excluded for a query are taken out of its ranking.

    Args:
        system: scores for the task's queries and documents.
        task: the task.
        settings: those that are wanted; one that no query can be answered in is left out.
        progress: whether to show a bar.

    Raises:
        ValueError: an unknown setting.
    """
    found = {}
    for setting in settings:
        candidates = task.candidates(setting)
        rows, relevance = task.within(setting)
        if not len(rows):
            continue
        rankings = ranked(system, task, rows, candidates, progress)
        found[setting] = SettingResult(rows, all_measures(judge(rankings, relevance)), rankings)
    return found


def ranked(
    system: UniversalSystem,
    task: RetrievalTask,
    rows: np.ndarray,
    candidates: np.ndarray,
    progress: bool = False,
    depth: int = DEPTH,
) -> np.ndarray:
    """Rankings `(queries, depth)` of some queries, in blocks that fit in memory."""
    block = max(1, _SCORES_AT_A_TIME // max(len(candidates), 1))
    parts = []
    for start in tqdm(range(0, len(rows), block), desc=f"Searching, {system.name}", disable=not progress):
        chosen = rows[start : start + block]
        scores = np.where(candidates, system.scores(chosen, candidates), -np.inf)
        for place, row in enumerate(chosen):
            scores[place, task.excluded[row]] = -np.inf
        found = rank(scores, depth)
        # A corpus of fewer documents than the depth.
        parts.append(np.pad(found, ((0, 0), (0, depth - found.shape[1])), constant_values=-1))
    return np.concatenate(parts) if parts else np.empty((0, depth), dtype=np.int64)


def returned_images(result: SettingResult, task: RetrievalTask, depth: int = SHARE_DEPTH) -> np.ndarray:
    """Percent of images among each query's first `depth` documents `(queries,)`; NaN where nothing was returned."""
    found = np.full(len(result.rows), np.nan)
    for place, ranking in enumerate(result.rankings):
        first = ranking[:depth][ranking[:depth] >= 0]
        if len(first):
            found[place] = 100 * task.is_image[first].mean()
    return found


def image_shares(result: SettingResult, task: RetrievalTask, depth: int = SHARE_DEPTH) -> dict[str, dict[str, float]]:
    """Share of images, in percent, among the first `depth` documents and among the relevant ones.

    Each query counts once, with its own shares; a query for which nothing was returned has no share of the former.

    Returns:
        kind of query, and "all" -> `returned`, `relevant` and `queries` (how many).
    """
    returned = returned_images(result, task, depth)
    relevant = np.array([100 * task.is_image[list(task.relevance[row])].mean() for row in result.rows])
    kinds = np.array([task.query_kinds[row] for row in result.rows])
    shares = {}
    for kind in ["all", *sorted(set(kinds) - {""})]:
        chosen = np.ones(len(kinds), bool) if kind == "all" else kinds == kind
        shown = returned[chosen][~np.isnan(returned[chosen])]
        shares[kind] = {
            "returned": float(shown.mean()) if len(shown) else 0.0,
            "relevant": float(relevant[chosen].mean()),
            "queries": int(chosen.sum()),
        }
    return shares


__all__ = [
    "SHARE_DEPTH",
    "SettingResult",
    "evaluate_system",
    "image_shares",
    "ranked",
    "returned_images",
]
