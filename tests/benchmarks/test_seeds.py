"""Means and spreads over seeds, from what runs wrote."""

import json
import subprocess
import sys

import pytest

from benchmarks.harness import RESULTS, ROOT
from benchmarks.seeds import over_seeds


def test_mean_and_sample_deviation():
    runs = [{"seed": seed, "test": {"title_image_r1": value}} for seed, value in enumerate((1.0, 2.0, 6.0))]
    assert over_seeds(runs) == pytest.approx({"seeds": 3, "title_image_r1": 3.0, "title_image_r1_std": 7**0.5})


@pytest.mark.parametrize("seeds", [[0], [1, 1]])
def test_a_spread_needs_different_seeds(seeds):
    with pytest.raises(ValueError, match="two runs"):
        over_seeds([{"seed": seed, "test": {}} for seed in seeds])


def test_the_command(tmp_path):
    released = json.loads((ROOT / "hub_cards" / "unimur-mini" / "results.json").read_text())
    (tmp_path / "results.json").write_text(json.dumps({**released, "seed": 1}))
    before = (RESULTS / "unimur_mini_seeds.json").read_bytes()
    printed = subprocess.run(
        [sys.executable, "benchmarks/seeds.py", str(tmp_path), "--quick"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    figures = json.loads(printed)
    assert figures["title_image_r1"] == pytest.approx(released["test"]["title_image_r1"], rel=1e-5)
    assert figures["title_image_r1_std"] == 0
    assert (RESULTS / "unimur_mini_seeds.json").read_bytes() == before
