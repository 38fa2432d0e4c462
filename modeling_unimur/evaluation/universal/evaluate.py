"""Systems on one task in the three settings: measures with intervals, and which kind of document they prefer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tqdm.auto import tqdm

from ..metrics import DEPTH, all_measures, judge, rank
from ..significance import bootstrap, paired_bootstrap
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


def image_shares(result: SettingResult, task: RetrievalTask, depth: int = SHARE_DEPTH) -> dict[str, dict[str, float]]:
    """Share of pictures, in percent, among the first `depth` documents and among the relevant ones.

    Each query counts once, with its own shares; a query for which nothing was returned has no share of the former.

    Returns:
        kind of query, and "all" -> `returned`, `relevant` and `queries` (how many).
    """
    returned = np.full(len(result.rows), np.nan)
    relevant = np.zeros(len(result.rows))
    for place, (row, ranking) in enumerate(zip(result.rows, result.rankings, strict=True)):
        first = ranking[:depth]
        first = first[first >= 0]
        if len(first):
            returned[place] = task.is_image[first].mean()
        relevant[place] = task.is_image[list(task.relevance[row])].mean()
    kinds = np.array([task.query_kinds[row] for row in result.rows])
    shares = {}
    for kind in ["all", *sorted(set(kinds) - {""})]:
        chosen = np.ones(len(kinds), bool) if kind == "all" else kinds == kind
        shown = returned[chosen]
        shown = shown[~np.isnan(shown)]
        shares[kind] = {
            "returned": float(100 * shown.mean()) if len(shown) else 0.0,
            "relevant": float(100 * relevant[chosen].mean()),
            "queries": int(chosen.sum()),
        }
    return shares


def summary(results: dict[str, dict[str, SettingResult]], task: RetrievalTask) -> dict:
    """Results as plain numbers.

    Args:
        results: name of a system -> what `evaluate_system` returned.
        task: the task.

    Returns:
        system -> setting -> `queries`, every measure as `{"mean", "low", "high"}` (percent, 95 % by the bootstrap over
        queries), `by_kind` (kind of query -> MRR@10), and in the setting `both` `image_share`.
    """
    found: dict = {}
    for name, by_setting in results.items():
        found[name] = {}
        for setting, result in by_setting.items():
            row: dict = {"queries": len(result.rows)}
            row |= {measure: vars(bootstrap(values)).copy() for measure, values in result.measures.items()}
            kinds = np.array([task.query_kinds[number] for number in result.rows])
            row["by_kind"] = {
                kind: float(result.measures["mrr@10"][kinds == kind].mean()) for kind in sorted(set(kinds) - {""})
            }
            if setting == "both":
                row["image_share"] = image_shares(result, task)
            found[name][setting] = row
    return found


def difference(ours: SettingResult, theirs: SettingResult, measure: str = "mrr@10") -> dict[str, float]:
    """Mean difference on the same queries, in points: `mean`, `low`, `high` (95 %, paired bootstrap).

    Raises:
        ValueError: results on different queries.
    """
    if not np.array_equal(ours.rows, theirs.rows):
        raise ValueError("The two results are of different queries.")
    return vars(paired_bootstrap(ours.measures[measure], theirs.measures[measure])).copy()


__all__ = [
    "SHARE_DEPTH",
    "SettingResult",
    "difference",
    "evaluate_system",
    "image_shares",
    "ranked",
    "summary",
]
