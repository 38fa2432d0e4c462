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
    "seconds", "embeddings_over_retrieve",
    *(f"{path}_{name}" for path in ("retrieve", "embeddings")
      for name in ("errors", "p50_ms", "p99_ms", "rps", "requests")),
}  # fmt: skip


@pytest.mark.slow
def test_quick_run(release):
    command = [sys.executable, "benchmarks/serving.py", "--quick", "--model", str(release)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    figures = json.loads(done.stdout.splitlines()[-1])
    assert set(figures) == FIGURES
    assert all(math.isfinite(value) for value in figures.values())
    assert figures["errors"] == figures["retrieve_errors"] == figures["embeddings_errors"] == 0
    assert min(figures["retrieve_requests"], figures["embeddings_requests"]) > 0
    assert figures["refused"] > 0
    assert figures["p99_ms"] >= figures["p50_ms"] > 0
