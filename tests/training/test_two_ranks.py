"""Two ranks compute what one process with the whole batch computes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.training.two_ranks import build

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("special", ["distinct", "shared targets and missing pictures"])
def test_losses_and_gradients(special, tmp_path, language_folder, clip_folder, pair):
    _, processor = pair
    texts = ["a cat", "the red balloon over the town", "she plays guitar", "no", "what a morning", "cake"]
    generator = torch.Generator().manual_seed(0)
    batch = dict(processor.process_context(texts))
    batch["target_image_features"], batch["target_text_features"] = torch.randn(2, 6, 24, generator=generator).double()
    if special != "distinct":
        batch["target_ids"] = torch.tensor([5, 1, 2, 5, 4, 2])
        batch["target_image_mask"] = torch.tensor([True, False, True, True, False, False])
    save_file(batch, tmp_path / "batch.safetensors")
    script = Path(__file__).with_name("two_ranks.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    arguments = [str(language_folder), str(clip_folder), str(tmp_path / "batch.safetensors"), str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    found = load_file(tmp_path / "out")

    model = build(str(language_folder), str(clip_folder))
    model.heads.visual_map.requires_grad_(False)
    loss = model(**batch).loss
    loss.backward()
    assert found.pop("loss").item() == pytest.approx(loss.item(), abs=1e-6)
    wanted = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert {"heads.logit_scale", "heads.text_logit_scale", "heads.ret_embedding"} <= set(wanted) == set(found)
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
