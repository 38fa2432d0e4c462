"""The quick run of the evaluation benchmark: its figures, what they equal, and that it writes nothing."""

import json
import math
import subprocess
import sys

import pytest

from benchmarks.harness import RESULTS, ROOT

FIGURES = {
    "answer_ranking_speedup",
    "answer_score_error",
    "answers_seconds",
    "answers_plain_seconds",
    "answer_tokens",
    "option_tokens",
    "turn_encoding_speedup",
    "turn_error",
    "turns_seconds",
    "turns_plain_seconds",
    "turn_tokens",
    "pools_seconds",
    "pools_peak_gib",
    "pools_dialogues",
    "reference_spread",
    "busy_retries",
    "other_cores",
}


@pytest.mark.slow
def test_quick_run(release, pictures):
    before = sorted((path, path.stat().st_mtime_ns) for path in RESULTS.glob("*"))
    command = [
        sys.executable,
        "benchmarks/evaluation.py",
        "--quick",
        "--model",
        str(release),
        "--image",
        pictures[0],
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    figures = json.loads(done.stdout.splitlines()[-1])
    assert set(figures) == FIGURES
    assert all(math.isfinite(value) for value in figures.values())
    assert figures["answer_score_error"] < 1e-3
    assert figures["turn_error"] < 1e-4
    assert figures["answer_ranking_speedup"] > 0 < figures["turn_encoding_speedup"]
    assert figures["pools_dialogues"] == 200
    assert 0.1 < figures["pools_peak_gib"] < 4
    assert sorted((path, path.stat().st_mtime_ns) for path in RESULTS.glob("*")) == before
