"""Two ranks compute what one process with the whole batch computes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from modeling_unimur.training.collators import caption_inputs
from tests.training.two_ranks import build

ROOT = Path(__file__).resolve().parents[2]
_TEXTS = ["a cat", "the red balloon over the town", "she plays guitar", "no", "what a morning", "cake"]


def launch(script: str, *arguments) -> str:
    """What two ranks of a script beside this file print."""
    path = Path(__file__).with_name(f"{script}.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    words = [*command, *map(str, arguments)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def whole_batch(processor, special: str) -> dict:
    """Six contexts and captions of unequal length, for the ranks to share."""
    generator = torch.Generator().manual_seed(0)

    def features(count: int, size: int) -> torch.Tensor:
        return torch.randn(count, size, generator=generator).double()

    shown = {"distinct": (), "uneven": (0, 1)}.get(special, (1, 4))
    texts = [processor.image_token + text if row in shown else text for row, text in enumerate(_TEXTS)]
    batch = dict(processor.process_rendered(texts))
    if shown:
        batch["visual_features"] = features(len(shown), 48)
    batch["target_image_features"], batch["target_text_features"] = features(6, 48), features(6, 24)
    batch["anchor_features"], batch["turn_statistics"] = features(12, 24).unflatten(0, (6, 2)), features(6, 2).abs()
    # Only the first rank has captions, and pictures in its contexts, in the uneven batch.
    captions = _TEXTS[:3] if special == "uneven" else _TEXTS
    batch.update(caption_inputs(processor, captions, 24))
    batch["caption_visual_features"] = features(len(captions), 48)
    if special == "shared targets and missing pictures":
        batch["target_ids"] = torch.tensor([5, 1, 2, 5, 4, 2])
        batch["target_image_mask"] = torch.tensor([True, False, True, True, False, False])
        batch["target_image_negatives"] = features(12, 48).unflatten(0, (6, 2))
        batch["target_text_negatives"] = features(12, 24).unflatten(0, (6, 2))
    return batch


@pytest.mark.parametrize(
    ("special", "chunk"),
    [
        pytest.param("distinct", 0, marks=pytest.mark.slow),
        ("shared targets and missing pictures", 0),
        pytest.param("uneven", 0, marks=pytest.mark.slow),
        ("shared targets and missing pictures", 2),
        pytest.param("distinct", 1, marks=pytest.mark.slow),
        pytest.param("uneven", 2, marks=pytest.mark.slow),
    ],
)
def test_losses_and_gradients(special, chunk, tmp_path, language_folder, clip_folder, pair):
    batch = whole_batch(pair[1], special)
    save_file(batch, tmp_path / "batch.safetensors")
    launch("two_ranks", language_folder, clip_folder, tmp_path / "batch.safetensors", tmp_path / "out", chunk)
    found = load_file(tmp_path / "out")

    model = build(str(language_folder), str(clip_folder))
    outputs = model(**batch)
    outputs.loss.backward()
    assert found.pop("loss").item() == pytest.approx(outputs.loss.item(), rel=1e-6)  # the sum is float32
    wanted = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert {"heads.logit_scale", "heads.text_logit_scale", "heads.ret_embedding"} <= set(wanted) == set(found)
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_unequal_batches_are_errors_on_every_rank(language_folder, clip_folder):
    told = launch("unequal_ranks", language_folder, clip_folder)
    for what in ("loss", "rows", "contexts", "target ids", "captions"):
        for rank in (0, 1):
            line = next((line for line in told.splitlines() if f"{what} on rank {rank}:" in line), None)
            assert line is not None, told
            assert "accepted" not in line
            assert "dataloader_drop_last" in line
    assert told.count("fitted on rank") == told.count("accepted") == 2
