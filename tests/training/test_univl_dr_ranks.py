"""UniVL-DR's in-batch loss over two ranks is that of one process with the whole batch."""

import torch
from safetensors.torch import load_file

from tests.training.test_two_ranks import launch
from tests.training.univl_dr_ranks import SHARES, WHOLE, inputs, loss_of


def test_two_ranks_are_one_process(tmp_path):
    launch("univl_dr_ranks", tmp_path / "found.safetensors")
    found = load_file(tmp_path / "found.safetensors")
    queries, documents, weight = inputs()
    weight.requires_grad_()
    loss = loss_of(WHOLE, queries, documents, weight)
    loss.backward()
    torch.testing.assert_close(found["loss"], loss.detach(), atol=1e-12, rtol=0)
    torch.testing.assert_close(found["gradient"], weight.grad, atol=1e-12, rtol=0)
    with torch.no_grad():  # without the other rank's documents it is another one
        alone = torch.stack([loss_of(share, queries, documents, weight) for share in SHARES]).mean()
    assert abs(alone - loss) > 0.01
