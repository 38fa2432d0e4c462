"""The ladder's rows on figures that were worked out, and its quick run on a small set."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import univl_dr_ladder
from benchmarks.harness import RESULTS, ROOT
from benchmarks.ladder_rows import BALANCED, IN_BATCH, UNBALANCED, ZERO, Rows, aims, comparisons, lines_of
from modeling_unimur.evaluation.universal import RetrievalTask, dense_system
from tests.evaluation.universal_sets import TOPICS, retrieval_set
from tests.training.univl_dr_set import write_set


@pytest.fixture(scope="module")
def rows():
    task = RetrievalTask.from_set(retrieval_set(), "test")
    task = replace(task, excluded=[np.empty(0, int)] * len(task.query_ids))
    count = len(task.doc_ids)
    found = Rows(task)
    right = np.array([next(iter(grades)) for grades in task.relevance])

    def add(name, place):
        """The right document at a place (from 0) for every query."""
        scores = np.tile(-np.arange(count, dtype=np.float32), (len(right), 1))
        for row, document in enumerate(right):
            others = [number for number in range(count) if number != document]
            order = [*others[:place], document, *others[place:]]
            scores[row, order] = -np.arange(count)
        found.add(name, dense_system(np.eye(len(right), dtype=np.float32), scores.T, task.is_image))

    add("BM25", 3)
    add(ZERO, 3)
    add(f"BM25 & {ZERO}", 3)
    add(IN_BATCH, 1)
    for place in (0, 1):
        add(UNBALANCED, 1)
        add(BALANCED, place)
    return found


def test_seeds_are_averaged_and_steps_compared(rows):
    assert rows.found.systems[BALANCED].values["both mrr@10"].shape == (2, 2 * len(TOPICS))
    assert rows.summary()[BALANCED]["both"]["mrr@10"]["mean"] == pytest.approx(75)
    assert rows.summary()[BALANCED]["runs"] == 2
    found = comparisons(rows)
    assert found[f"{IN_BATCH} - {ZERO}"]["mean"] == pytest.approx(25)
    assert found[f"{UNBALANCED} - {IN_BATCH}"] == {"mean": 0, "low": 0, "high": 0}
    assert found[f"{BALANCED} - {UNBALANCED}"]["mean"] == pytest.approx(25)
    assert not any("verbalization" in name for name in found)
    reached = aims(rows, found)
    assert reached["over_fusion"] == pytest.approx(50)
    assert reached["over_fusion_low"] == pytest.approx(50)
    shares = rows.shares(BALANCED)["all"]
    assert reached["share_distance"] == pytest.approx(abs(shares["returned"] - shares["relevant"]))


def test_table(rows):
    lines = lines_of("a set", rows)
    assert {len(line) for line in lines} == {len(lines[0])}
    assert lines[0][:2] == ["a set", "MRR@10"]
    row = next(line for line in lines if line[0] == f"{BALANCED} (2 seeds)")
    assert row[1].startswith("75.0 [")
    assert lines[-1][0] == "(of the relevant)"
    assert lines[-1][-3:] == ["50", "100", "0"]  # all, image, text


@pytest.mark.slow
def test_quick_run(clip_folder, tmp_path):
    pytest.importorskip("faiss")
    corpus = f"folder={write_set(tmp_path / 'set')}"
    before = sorted((path, path.stat().st_mtime_ns) for path in RESULTS.glob("*"))
    command = [sys.executable, "benchmarks/univl_dr_ladder.py", "--quick", "--seeds", "1", "--verbalize"]
    done = subprocess.run(
        [*command, "--clip", str(clip_folder), "--corpora", corpus],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
        env={**os.environ, "UNIMUR_CACHE": str(tmp_path / "cache")},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    figures = json.loads(done.stdout.splitlines()[-1])
    assert all(math.isfinite(value) for value in figures.values())
    for name in ("BM25", ZERO, IN_BATCH, UNBALANCED, BALANCED, f"BM25 & {ZERO}", "balanced + BM25 (hybrid)"):
        assert 0 <= figures[f"{corpus} {name} mrr@10"] <= 100
    for name in ("over_fusion", "share_distance"):
        assert f"{corpus} {name}" in figures
    assert figures[f"{corpus} BM25, captions hidden mrr@10"] < figures[f"{corpus} BM25 mrr@10"]
    assert sorted((path, path.stat().st_mtime_ns) for path in RESULTS.glob("*")) == before


def test_overrides_behind_the_corpora_are_told(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["univl_dr_ladder.py", "--corpora", "gimp_manual", "training.bf16=true"])
    with pytest.raises(SystemExit):
        univl_dr_ladder.main()
    assert "put overrides before it" in capsys.readouterr().err
