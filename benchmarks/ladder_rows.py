"""Rows of UniVL-DR's ladder: runs of each system, what they differ by, and the table."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from modeling_unimur.evaluation.significance import bootstrap, paired_bootstrap
from modeling_unimur.evaluation.universal import (
    SETTINGS,
    RetrievalTask,
    SettingResult,
    UniversalSystem,
    evaluate_system,
    image_shares,
)

# The columns of UniVL-DR's main table.
COLUMNS = ("mrr@10", "ndcg@10", "mrr@20", "ndcg@20", "recall@20", "recall@100")
ZERO, PLAIN, IN_BATCH = "zero-shot", "zero-shot, plain sum", "in-batch"
UNBALANCED, BALANCED = "+ hard negatives, unbalanced", "+ hard negatives, balanced"
VERBAL, HIDDEN = "+ verbalization", ", captions hidden"


@dataclass
class Rows:
    """What was measured on one corpus: of each row its runs (seeds), each with its settings."""

    task: RetrievalTask
    runs: dict[str, list[dict[str, SettingResult]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    _summary: dict | None = None

    def add(self, system: UniversalSystem, name: str | None = None) -> None:
        """Runs a system; another run of the same name is another seed."""
        self._summary = None
        self.runs.setdefault(name or system.name, []).append(evaluate_system(system, self.task))

    def values(self, name: str, setting: str = "both", measure: str = "mrr@10") -> np.ndarray:
        """Percent `(runs, queries)`."""
        return np.stack([run[setting].measures[measure] for run in self.runs[name]])

    def difference(self, ours: str, theirs: str) -> dict[str, float]:
        """MRR@10 of one row minus another's, paired over queries."""
        return vars(paired_bootstrap(self.values(ours), self.values(theirs))).copy()

    def shares(self, name: str) -> dict[str, dict[str, float]]:
        """Shares of images, averaged over the runs."""
        found = [image_shares(run["both"], self.task) for run in self.runs[name]]
        return {
            kind: {key: float(np.mean([one[kind][key] for one in found])) for key in found[0][kind]}
            for kind in found[0]
        }

    def summary(self) -> dict:
        """Row -> setting -> measure -> mean and interval; and shares of images. Computed once: it takes a while."""
        if self._summary is None:
            self._summary = self._summarised()
        return self._summary

    def _summarised(self) -> dict:
        found: dict = {}
        for name, runs in self.runs.items():
            found[name] = {
                setting: {
                    "queries": len(runs[0][setting].rows),
                    **{
                        measure: vars(bootstrap(self.values(name, setting, measure))).copy()
                        for measure in runs[0][setting].measures
                    },
                }
                for setting in SETTINGS
                if setting in runs[0]
            }
            found[name]["runs"] = len(runs)
            found[name]["image_share"] = self.shares(name)
        return found


def comparisons(rows: Rows) -> dict[str, dict[str, float]]:
    """Each step against the one before it, and the balanced model against what it is to beat."""
    pairs = [
        (IN_BATCH, ZERO),
        (UNBALANCED, IN_BATCH),
        (BALANCED, IN_BATCH),
        (BALANCED, UNBALANCED),
        (VERBAL, BALANCED),
        (BALANCED, "BM25"),
        (BALANCED, f"BM25 & {ZERO}"),
        (BALANCED, f"BM25 & {IN_BATCH}"),
        ("balanced + BM25 (hybrid)", "BM25"),
        ("balanced + BM25 (hybrid)", BALANCED),
    ]
    return {
        f"{ours} - {theirs}": rows.difference(ours, theirs)
        for ours, theirs in pairs
        if ours in rows.runs and theirs in rows.runs
    }


def aims(rows: Rows, differences: dict) -> dict[str, float]:
    """The balanced model over the fusion without oracle, and its largest distance from the relevant's shares."""
    beaten = differences[f"{BALANCED} - BM25 & {ZERO}"]
    shares = rows.shares(BALANCED)
    distances = {kind: abs(share["returned"] - share["relevant"]) for kind, share in shares.items()}
    return {
        "over_fusion": beaten["mean"],
        "over_fusion_low": beaten["low"],
        "share_distance": distances["all"],
        "largest_share_distance_of_a_kind": max(distances.values()),
    }


def lines_of(corpus: str, rows: Rows) -> list[list[str]]:
    """The table of one corpus, `both` and MRR@10 of the other settings."""
    found = rows.summary()
    kinds = list(next(iter(found.values()))["image_share"])
    header = [corpus, *(column.upper() for column in COLUMNS), "texts MRR@10", "pictures MRR@10"]
    lines = [[*header, *(f"% images, {kind}" for kind in kinds)]]
    for name, row in found.items():
        main = row["both"]["mrr@10"]
        cells = [f"{main['mean']:.1f} [{main['low']:.1f}, {main['high']:.1f}]"]
        cells += [f"{row['both'][column]['mean']:.1f}" for column in COLUMNS[1:]]
        cells += [f"{row[s]['mrr@10']['mean']:.1f}" if s in row else "" for s in ("text", "image")]
        cells += [f"{row['image_share'][kind]['returned']:.0f}" for kind in kinds]
        seeds = f" ({row['runs']} seeds)" if row["runs"] > 1 else ""
        lines.append([name + seeds, *cells])
    relevant = next(iter(found.values()))["image_share"]
    blank = [""] * (len(COLUMNS) + 2)
    lines.append(["(of the relevant)", *blank, *(f"{relevant[kind]['relevant']:.0f}" for kind in kinds)])
    return lines
