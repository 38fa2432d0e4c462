"""The quick run of the chat benchmark: its figures, and that both paths agree."""

import json
import math
import subprocess
import sys

import pytest

from benchmarks.harness import ROOT

FIGURES = {
    "other_cores",
    "turn_10_speedup",
    "turn_20_speedup",
    "chat_speedup",
    "largest_difference",
    "cache_mib",
    *(f"{name}_ms_turn_{turn}" for name in ("cached", "anew") for turn in (2, 10, 20)),
}


@pytest.mark.slow
def test_quick_run(release):
    command = [sys.executable, "benchmarks/chat.py", "--quick", "--model", str(release)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    figures = json.loads(done.stdout.splitlines()[-1])
    assert set(figures) == FIGURES
    measured = figures.keys() - {"largest_difference", "other_cores"}
    assert all(math.isfinite(figures[name]) and figures[name] > 0 for name in measured)
    assert figures["largest_difference"] < 1e-5
