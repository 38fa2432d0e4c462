"""`unimur train --resume` after kill -9 gives what the run that was not killed gives, bit for bit."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.rounding import assert_same_figures, assert_same_training
from tests.training.folder_run import write_pictures, write_recipe

ROOT = Path(__file__).resolve().parents[2]
_STEPS, _EVERY = 16, 4


def train(moment: str, step: int, recipe: Path, cache: Path, *flags: str) -> "tuple[int, str]":
    """Exit status and what was told, of a process of its own."""
    command = [sys.executable, "-m", "tests.training.train_until_killed", moment, str(step), "train", *flags, recipe]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "UNIMUR_CACHE": str(cache)}
    done = subprocess.run(
        [str(word) for word in command], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    return done.returncode, done.stdout + done.stderr


def losses(output: Path) -> "dict[int, dict]":
    """Step -> everything that was logged at it, but the times."""
    lines: dict[int, dict] = {}
    for line in json.loads((output / "training_log.json").read_text()):
        if "train_runtime" not in line:
            lines.setdefault(line["step"], {}).update(line)
    return lines


@pytest.fixture(scope="module")
def whole(tmp_path_factory, language_folder, clip_folder):
    """A run that nobody killed, and a function that writes its recipe for another output folder."""
    base = tmp_path_factory.mktemp("runs")
    pictures = write_pictures(base / "pictures")

    def recipe(name: str) -> Path:
        return write_recipe(
            base / f"{name}.yaml",
            pictures,
            language_folder,
            clip_folder,
            output_dir=str(base / name),
            max_steps=_STEPS,
            save_steps=_EVERY,
            eval_steps=_EVERY,
        )

    status, told = train("never", 0, recipe("whole"), base / "cache")
    assert status == 0, told[-3000:]
    return base, recipe


def assert_same_run(found: Path, wanted: Path) -> None:
    """Final weights (the best checkpoint's), the last step's weights, optimizer, losses and recalls are equal."""
    files = ["model.safetensors", f"checkpoint-{_STEPS}/model.safetensors"]
    for file in files:
        assert_same_training(load_file(found / file), load_file(wanted / file))
    states = [
        torch.load(run / f"checkpoint-{_STEPS}" / "optimizer.pt", weights_only=True)["state"]
        for run in (found, wanted)
    ]
    for key, moments in states[1].items():
        assert_same_training(states[0][key], moments)
    assert_same_figures(losses(found), losses(wanted))
    assert sorted(losses(found)) == list(range(1, _STEPS + 1))
    results = [json.loads((run / "results.json").read_text()) for run in (found, wanted)]
    assert_same_figures(*results)
    best = [json.loads((run / f"checkpoint-{_STEPS}/trainer_state.json").read_text()) for run in (found, wanted)]
    assert best[0]["best_metric"] == pytest.approx(best[1]["best_metric"])
    assert best[0]["best_global_step"] == best[1]["best_global_step"]


@pytest.mark.slow
def test_killed_at_three_random_steps(whole):
    base, recipe = whole
    draw = random.Random(20240317)
    steps = sorted(draw.sample(range(_EVERY + 1, _STEPS), 3))
    file = recipe("killed")
    for step in steps:
        moment = draw.choice(["forward", "optimizer"])
        status, told = train(moment, step, file, base / "cache", "--resume")
        assert status == -signal.SIGKILL, f"{moment} {step}: {told[-2000:]}"
    assert not (base / "killed" / "training_log.json").exists()
    status, told = train("never", 0, file, base / "cache", "--resume")
    assert status == 0, told[-2000:]
    assert_same_run(base / "killed", base / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["weights", "moments", "state", "saved"])
def test_killed_while_a_checkpoint_is_written(whole, moment):
    base, recipe = whole
    file, step = recipe(moment), 2 * _EVERY
    assert train(moment, step, file, base / "cache")[0] == -signal.SIGKILL
    status, told = train("never", 0, file, base / "cache", "--resume")
    assert status == 0, told[-2000:]
    passed_over = f"checkpoint-{step} is incomplete" in told
    assert passed_over == (moment != "saved")
    assert f"training goes on from checkpoint-{step if moment == 'saved' else _EVERY}" in told
    assert (base / moment / f"incomplete-checkpoint-{step}").is_dir() == passed_over
    assert_same_run(base / moment, base / "whole")
