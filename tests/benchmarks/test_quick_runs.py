"""Every benchmark's quick run ends in one line of JSON with the documented figures and writes nothing."""

import argparse
import json
import math
import subprocess
import sys

import pytest
import torch

from benchmarks import training_step
from benchmarks.harness import RESULTS, ROOT
from benchmarks.training_inputs import TrainingBatch

SETTINGS = [f"{kind}_batch{size}" for kind in ("text", "pictures") for size in (1, 2)]
PARTS = ("bare", "model", "call", "decoding", "tokenising", "search")
PIPELINE = {
    "cold_start_seconds",
    "cold_start_bare_seconds",
    "overhead_percent",
    "mean_overhead_percent",
    "call_over_bare_percent",
    "reference_spread",
    "busy_retries",
    "other_cores",
    *(f"{name}_ms_{where}" for name in PARTS for where in SETTINGS),
    *(f"{name}_{where}" for name in ("queries_per_second", "bare_queries_per_second") for where in SETTINGS),
    *(f"overhead_percent_{where}" for where in SETTINGS),
}
STEPS = (
    "forward",
    "retrieval_step",
    "plain_step",
    "plain_step_computing_targets",
    "caption_step",
    "plain_caption_step",
    "retrieval_step_kept",
    "retrieval_step_bf16",
)
BOUND = ("weight_read", "ret_position")
ERRORS = ("loss_error", "gradient_error", "caption_loss_error", "caption_gradient_error")
TRAINING_STEP = {
    "retrieval_step_over_forward",
    "retrieval_speedup_over_plain",
    "retrieval_speedup_with_cached_targets",
    "caption_speedup_over_plain",
    "kept_speedup_over_plain",
    "bf16_speedup",
    "bf16_loss_error",
    "bf16_gradient_error",
    *ERRORS,
    *(f"{name}_float64" for name in ERRORS),
    "batch",
    "tokens",
    "share_of_padding",
    "caption_tokens",
    "reference_spread",
    "busy_retries",
    "other_cores",
    "retrieval_step_bound_over_forward",
    *(f"{step}_seconds" for step in (*STEPS, *BOUND)),
    *(f"{step}_seconds_batch32" for step in (*STEPS[:2], *BOUND)),
    *(f"retrieval_step_{name}over_forward_batch32" for name in ("", "bound_")),
    *(f"{name}_batch32" for name in ("tokens", "share_of_padding")),
}
GROWTH = {
    "retrieval_step_over_forward_batch8_tokens32",
    "retrieval_speedup_over_plain_batch8_tokens32",
    *(f"{step}_{unit}_batch8_tokens32" for step in STEPS[:3] for unit in ("seconds", "mib")),
    "reference_spread",
    "busy_retries",
    "other_cores",
}


def _quick(name: str, *arguments) -> dict:
    before = sorted((path, path.stat().st_mtime_ns) for path in RESULTS.glob("*"))
    command = [sys.executable, f"benchmarks/{name}.py", "--quick", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert sorted((path, path.stat().st_mtime_ns) for path in RESULTS.glob("*")) == before
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def training_figures(release, pair_file):
    return _quick("training_step", "--model", release, "--pairs", pair_file)


@pytest.mark.slow
def test_pipeline(release, dialogue_file):
    figures = _quick("pipeline", "--model", release, "--dialogues", dialogue_file)
    assert set(figures) == PIPELINE
    assert all(math.isfinite(value) for value in figures.values())
    for where in SETTINGS:
        assert figures[f"call_ms_{where}"] > figures[f"model_ms_{where}"] > figures[f"search_ms_{where}"] > 0
    worst = max(figures[f"overhead_percent_{where}"] for where in SETTINGS)
    assert figures["overhead_percent"] == worst >= figures["mean_overhead_percent"]
    assert figures["cold_start_seconds"] > 0 < figures["cold_start_bare_seconds"]
    assert figures["decoding_ms_pictures_batch1"] > figures["decoding_ms_text_batch1"]


@pytest.mark.slow
def test_coherent_reply(release, dialogue_file):
    indexes, options = ("memory", "flat", "hnsw", "ivf"), ["--candidates", 2000]
    figures = _quick(
        "coherent_reply", "--model", release, "--dialogues", dialogue_file, *options, "--indexes", *indexes
    )
    assert set(figures) == {"candidates", "reference_spread", "busy_retries", "other_cores"} | {
        f"{index}_{name}"
        for index in indexes
        for name in (
            *(f"{part}_{title}_ms" for part in ("call", "rank") for title in ("plain", "coherent")),
            *(f"rank_{title}_ms_b8" for title in ("plain", "coherent")),
            *("call_over_plain", "rank_over_plain", "rank_over_plain_b8", "pair_ms"),
        )
    }
    assert all(math.isfinite(value) for value in figures.values())
    assert all(value > 0 for name, value in figures.items() if "_ms" in name or "_over_" in name)
    assert figures["candidates"] == 2000


@pytest.mark.slow
def test_training_step_prints_its_figures(training_figures):
    assert set(training_figures) == TRAINING_STEP
    assert all(math.isfinite(value) for value in training_figures.values())
    assert all(training_figures[f"{step}_seconds"] > 0 for step in STEPS)
    assert training_figures["batch"] == 8
    for size in ("", "_batch32"):
        unpadded = 1 - training_figures[f"share_of_padding{size}"]
        passes = 2 * training_figures[f"ret_position_seconds{size}"] / training_figures[f"forward_seconds{size}"]
        bound = training_figures[f"retrieval_step_bound_over_forward{size}"]
        assert bound == pytest.approx(unpadded + passes, rel=1e-4)


@pytest.mark.slow
def test_growth_prints_its_figures(release, pair_file):
    figures = _quick("training_step", "--growth", "--model", release, "--pairs", pair_file)
    assert set(figures) == GROWTH
    assert all(math.isfinite(value) for value in figures.values())


def test_training_step_of_an_anchored_release_measures_its_readout(make_model, tmp_path):
    model, processor = make_model(query_anchor="encoder", processor={"query_anchor": "encoder"})
    model.config.heads_only = False
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    model, processor = training_step._load(argparse.Namespace(model=tmp_path))
    contexts = processor.process_rendered(["a cat", "the red balloon"], 32)
    targets = torch.randn(2, 2, model.config.joint_width)
    batch = TrainingBatch(dict(contexts), {}, targets[0], targets[1], targets[0], {})
    for step in training_step._steps(model, batch, ("forward", "retrieval_step", *BOUND)).values():
        step()


@pytest.mark.slow
def test_training_step_equals_the_whole_graph(training_figures):
    assert training_figures["loss_error"] < 1e-6
    assert training_figures["gradient_error"] < 1e-4
    assert training_figures["caption_loss_error"] < 1e-6
    assert training_figures["caption_gradient_error"] < 1e-4
