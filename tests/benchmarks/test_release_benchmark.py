"""The quick run of `benchmarks/release.py` on a small model."""

import math

import pytest

from tests.benchmarks.test_quick_runs import _quick


@pytest.mark.slow
def test_release(release, language_folder, clip_folder):
    figures = _quick("release", "--model", release, "--language-model", language_folder, "--clip", clip_folder)
    assert set(figures) == {
        "load_over_backbones",
        "load_seconds",
        "backbones_seconds",
        "heads_megabytes",
        "weights_megabytes",
        "load_over_backbones_half_precision",
        "peak_gib_half_precision_over_weights",
        "hub_layouts_passed",
        "reference_spread",
        "busy_retries",
        "other_cores",
    }
    assert all(math.isfinite(value) for value in figures.values())
    assert figures["load_seconds"] > 0 < figures["backbones_seconds"]
    assert figures["load_over_backbones_half_precision"] > 0
    assert figures["peak_gib_half_precision_over_weights"] < 1.9  # of small weights; twice them would be more
    assert figures["hub_layouts_passed"] == 4
    whole = (release / "model.safetensors").stat().st_size / 1e6
    assert 0 < figures["weights_megabytes"] < min(figures["heads_megabytes"], whole / 2)
