"""Rows of UniVL-DR's ladder: runs of each system, what they differ by, and the table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from modeling_unimur.evaluation.evaluator import Encoded
from modeling_unimur.evaluation.metrics import MEASURES
from modeling_unimur.evaluation.report import Figures, TaskResult
from modeling_unimur.evaluation.significance import Interval
from modeling_unimur.evaluation.universal import (
    SETTINGS,
    Hybrid,
    RetrievalTask,
    SecondStage,
    Space,
    bm25_system,
    dense_system,
    setting_figures,
)
from modeling_unimur.evaluation.universal.evaluate import SHARE_DEPTH, Choice, choose
from modeling_unimur.index.second_stage import Reranker

# The columns of UniVL-DR's main table.
COLUMNS = ("mrr@10", "ndcg@10", "mrr@20", "ndcg@20", "recall@20", "recall@100")
ZERO, PLAIN, IN_BATCH = "zero-shot", "zero-shot, plain sum", "in-batch"
UNBALANCED, BALANCED = "+ hard negatives, unbalanced", "+ hard negatives, balanced"
VERBAL, HIDDEN = "+ verbalization", ", captions hidden"
HYBRID = "balanced + BM25 (hybrid)"
# Documents that a second stage reads.
RERANK_TOP_K = 20
# Weights of its scores in the sum with those of the first stage.
RERANKER_WEIGHTS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 2.0, 5.0)
SECOND, WEIGHTED = "hybrid + second stage", "hybrid + weighted second stage"


class Rows:
    """What was measured on one corpus: of each row the figures of its runs (seeds).

    Args:
        task: queries and documents of the corpus.
    """

    def __init__(self, task: RetrievalTask):
        self.task, self.notes = task, []
        self.found = self._result({})

    def _result(self, systems: dict[str, Figures]) -> TaskResult:
        ids = np.array(self.task.query_ids)
        return TaskResult("univl_dr_ladder", {}, ids, np.arange(len(ids)), systems, self.notes)

    def add(self, name: str, system: Encoded, settings: Sequence[str] = SETTINGS) -> None:
        """Runs a system; another run of the same name is another seed."""
        run, known = setting_figures(system, self.task, settings).values, dict(self.found.systems)
        runs = known[name].values if name in known else {}
        known[name] = Figures({key: np.vstack([*([runs[key]] if runs else []), row]) for key, row in run.items()})
        self.found = self._result(known)

    def difference(self, ours: str, theirs: str) -> Interval:
        """MRR@10 of one row minus another's, paired over queries."""
        return self.found.difference(ours, theirs, "both mrr@10")

    def shares(self, name: str) -> dict[str, dict[str, float]]:
        """By kind of query, the share of images in percent among the first documents, averaged over the runs, and
        among the relevant ones; a query for which nothing was returned has no share of the former."""
        returned = self.found.systems[name].values[f"both images@{SHARE_DEPTH}"]
        relevant = np.array([100 * self.task.is_image[list(grades)].mean() for grades in self.task.relevance])
        kinds, shares = np.array(self.task.query_kinds), {}
        for kind in ["all", *sorted(set(kinds) - {""})]:
            chosen = (kinds == kind) | (kind == "all")
            shown = [row[chosen & ~np.isnan(row)] for row in returned]
            shares[kind] = {
                "returned": float(np.mean([row.mean() if len(row) else 0.0 for row in shown])),
                "relevant": float(relevant[chosen].mean()),
                "queries": int(chosen.sum()),
            }
        return shares

    def summary(self) -> dict:
        """Row -> setting -> measure -> mean and interval; and shares of images."""
        found: dict = {}
        for name, figures in self.found.systems.items():
            found[name] = {}
            for setting in SETTINGS:
                columns = [measure for measure in MEASURES if f"{setting} {measure}" in figures.values]
                if columns:
                    answered = ~np.isnan(figures.values[f"{setting} {columns[0]}"][0])
                    found[name][setting] = {"queries": int(answered.sum())} | {
                        measure: vars(self.found.interval(name, f"{setting} {measure}")).copy() for measure in columns
                    }
            found[name]["runs"] = len(figures.values["both mrr@10"])
            found[name]["image_share"] = self.shares(name)
        return found


def second_stages(
    space: Space, hybrid: Encoded, bm25_weight: float, reranker: Reranker
) -> tuple[dict[str, Encoded], Choice]:
    """A hybrid (with BM25's weight in it) whose first documents are in the order of a reranker, and in that of the sum
    of both scores: both systems, and the choice of the reranker's weight in the sum, on the development split."""
    dev, stage = space.dev, SecondStage(hybrid, reranker, space.task, RERANK_TOP_K)
    dense = dense_system(space.dev_queries, space.documents, dev.is_image)
    sparse = bm25_system(dev.query_texts, dev.doc_texts, dev.is_image)
    on_dev = SecondStage(Hybrid(dense, sparse, bm25_weight), reranker, dev, RERANK_TOP_K)
    choice = choose(RERANKER_WEIGHTS, on_dev.weighted, dev, 0.0)
    return {SECOND: stage, WEIGHTED: stage.weighted(choice.value)}, choice


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
        (HYBRID, "BM25"),
        (HYBRID, BALANCED),
        (SECOND, HYBRID),
        (WEIGHTED, HYBRID),
    ]
    return {
        f"{ours} - {theirs}": vars(rows.difference(ours, theirs)).copy()
        for ours, theirs in pairs
        if ours in rows.found.systems and theirs in rows.found.systems
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
    header = [corpus, *(column.upper() for column in COLUMNS), "texts MRR@10", "images MRR@10"]
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
