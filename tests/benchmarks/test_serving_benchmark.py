"""The quick run of the serving benchmark: its figures, and that nothing went wrong under load."""

import json
import math
import subprocess
import sys

import pytest

from benchmarks.harness import ROOT

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
FIGURES = {
    "other_cores",
    "errors", "p50_ms", "p99_ms", "rps", "requests", "refused", "mib_early", "mib_late", "mean_batch", "clients",
    "seconds",
}  # fmt: skip


@pytest.mark.slow
def test_quick_run(release):
    command = [sys.executable, "benchmarks/serving.py", "--quick", "--model", str(release)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    figures = json.loads(done.stdout.splitlines()[-1])
    assert set(figures) == FIGURES
    assert all(math.isfinite(value) for value in figures.values())
    assert figures["errors"] == 0
    assert figures["refused"] > 0
    assert figures["p99_ms"] >= figures["p50_ms"] > 0
