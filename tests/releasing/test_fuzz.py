"""Releases with something wrong in config.json or in the header of the weights: refused, and nothing is run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def fuzz(source: Path, work: Path, mutations: int, seed: int) -> dict[str, int]:
    command = [sys.executable, str(ROOT / "tests" / "environments" / "fuzz_release.py"), str(source)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(work / "m")}
    done = subprocess.run(
        [*command, str(mutations), str(seed)], cwd=work, env=environment, capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stderr[-2000:]  # negative where the interpreter crashed
    assert not (work / "ran").exists()
    return json.loads(done.stdout.splitlines()[-1])


def check(ends: dict[str, int], mutations: int) -> None:
    assert sum(ends.values()) == mutations
    refused = {end: count for end, count in ends.items() if end.startswith("refused")}
    assert sum(refused.values()) > mutations / 3
    assert ends.get("took too long", 0) < mutations / 10


def test_a_few_mutations(full_source, tmp_path):
    check(fuzz(full_source, tmp_path, 60, seed=1), 60)


@pytest.mark.slow
def test_a_thousand_mutations(full_source, tmp_path):
    check(fuzz(full_source, tmp_path, 1000, seed=2), 1000)
