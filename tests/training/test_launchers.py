"""`unimur train` under torchrun and accelerate: two ranks train what one process with the whole batch trains."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.training.folder_run import write_pictures, write_recipe

ROOT = Path(__file__).resolve().parents[2]
_MODULE = "modeling_unimur.cli.main"
_TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", _MODULE]
_ACCELERATE = [
    "accelerate.commands.launch", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no",
    "--dynamo_backend", "no", "--main_process_port", "0",
]  # fmt: skip
LAUNCHERS = {
    "one process": [_MODULE],
    "torchrun": _TORCHRUN,
    "accelerate": [*_ACCELERATE, "--multi_gpu", "--module", _MODULE],
    "accelerate fsdp": [*_ACCELERATE, "--use_fsdp", "--fsdp_version", "2", "--module", _MODULE],
}
# Plain gradient descent: Adam divides by a gradient's own size, which makes a full step of the rounding error of a
# gradient that is zero. The frozen model runs in float64: the small one's weights are large and would multiply it.
_TRAINING = {
    "optim": "sgd",
    "learning_rate": 1e-3,
    "max_grad_norm": 0.0,
    "max_steps": 6,
    "save_steps": 3,
    "eval_steps": 3,
}


class Runs:
    """Runs of one recipe on one folder of pictures; features are cached by the first."""

    def __init__(self, base: Path, language_model: Path, clip: Path):
        self.base, self.backbones = base, (language_model, clip)
        self.pictures = write_pictures(base / "pictures")

    def __call__(
        self, name: str, launcher: str, *overrides: str, fails: bool = False, **training
    ) -> "tuple[Path, str]":
        """Output folder and what was told."""
        output, recipe = self.base / name, self.base / f"{name}.yaml"
        rows = 8 if launcher == "one process" else 4
        settings = {**_TRAINING, "per_device_train_batch_size": rows, "output_dir": str(output), **training}
        write_recipe(recipe, self.pictures, *self.backbones, **settings)
        # Which captions take part, and which share a row, is settled batch by batch, and the ranks have their own.
        same = ["data.captions_per_batch=null", "data.concatenate_captions=0.0", "model.language_model_dtype=float64"]
        words = [*same, *overrides]
        command = [sys.executable, "-m", *LAUNCHERS[launcher], "train", str(recipe), *words]
        environment = {
            **os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "UNIMUR_CACHE": str(self.base / "cache"),
        }  # fmt: skip
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=280)
        told = done.stdout + done.stderr
        assert (done.returncode != 0) == fails, told[-4000:]
        return output, told


@pytest.fixture(scope="module")
def runs(tmp_path_factory, language_folder, clip_folder):
    return Runs(tmp_path_factory.mktemp("launchers"), language_folder, clip_folder)


@pytest.fixture(scope="module")
def alone(runs):
    """One process with the whole batch."""
    return runs("alone", "one process")[0]


def lines(output: Path) -> "list[dict]":
    return json.loads((output / "training_log.json").read_text())


def assert_equal_runs(found: Path, wanted: Path) -> None:
    weights, expected = load_file(found / "model.safetensors"), load_file(wanted / "model.safetensors")
    assert set(weights) == set(expected)  # the heads alone
    for name, value in expected.items():
        torch.testing.assert_close(weights[name], value, atol=1e-6, rtol=1e-6, msg=lambda m, n=name: f"{n}: {m}")
    ours = {(line["step"], key): line[key] for line in lines(found) for key in line}
    theirs = {(line["step"], key): line[key] for line in lines(wanted) for key in line}
    kinds = [key for key in theirs if key[1].endswith(("loss", "logit_scale")) or key[1].startswith("eval_title")]
    terms = [key for key in kinds if key[1] != "train_loss"]  # Trainer's mean since it was last started
    assert len(terms) > 20
    for key in terms:
        assert ours[key] == pytest.approx(theirs[key], abs=2e-4), key  # Trainer rounds the sum
    results = [json.loads((folder / "results.json").read_text()) for folder in (found, wanted)]
    assert results[0]["test"] == pytest.approx(results[1]["test"])


@pytest.mark.slow
def test_torchrun_equals_one_process(runs, alone):
    output, told = runs("ddp", "torchrun")
    assert_equal_runs(output, alone)
    assert told.count("Written to") == 1
    assert "find_unused_parameters" not in told


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "launcher", "overrides"),
    [
        ("accelerate", "accelerate", []),
        ("sharded", "torchrun", ["training.fsdp=true"]),
        ("sharded_kept", "torchrun", ["training.fsdp=true", "training.fsdp_config={reshard_after_forward: false}"]),
        ("accelerate_sharded", "accelerate fsdp", []),
        ("cached", "torchrun", ["training.gradient_cache_chunk=2"]),
        ("sharded_cached", "torchrun", ["training.fsdp=true", "training.gradient_cache_chunk=2"]),
    ],
)
def test_every_way_to_start_equals_one_process(runs, alone, name, launcher, overrides):
    assert_equal_runs(runs(name, launcher, *overrides)[0], alone)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "launcher", "words"),
    [
        ("again_ddp", "torchrun", []),
        ("again_sharded", "torchrun", ["training.fsdp=true"]),
        ("again_alone", "one process", []),
    ],
)
def test_a_checkpoint_goes_on_under_any_launcher(runs, alone, name, launcher, words):
    first, _ = (
        runs("first", "torchrun", "training.save_strategy=steps")
        if not (runs.base / "first").exists()
        else (runs.base / "first", "")
    )
    checkpoint = first / "checkpoint-3"
    assert (checkpoint / "model.safetensors").stat().st_size < 200_000  # no backbone in it
    output, _ = runs(name, launcher, f"training.resume_from_checkpoint={checkpoint}", *words)
    assert_equal_runs(output, alone)


@pytest.mark.slow
def test_accumulation_over_ranks(runs):
    alone, _ = runs("accumulated", "one process", per_device_train_batch_size=4, gradient_accumulation_steps=2)
    ranks, _ = runs(
        "accumulated_ranks", "torchrun", per_device_train_batch_size=2, gradient_accumulation_steps=2,
        gradient_cache_chunk=1,
    )  # fmt: skip
    assert_equal_runs(ranks, alone)


@pytest.mark.slow
def test_without_a_second_rank_sharding_is_refused(runs):
    _, told = runs("nobody", "one process", "training.fsdp=true", fails=True)
    assert "fsdp shards over ranks" in told
