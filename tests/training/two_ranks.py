"""Run by torchrun: one training step on each rank's half of a batch; rank 0 saves losses and gradients.

torchrun --nproc-per-node 2 two_ranks.py LANGUAGE_MODEL CLIP BATCH OUTPUT CHUNK

CHUNK is the gradient cache's, or 0 for a direct step.
"""

import sys

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch.nn.parallel import DistributedDataParallel

from modeling_unimur import UniMuRModel, UniMuRProcessor
from modeling_unimur.training.gradient_cache import gradient_cached_step, split_rows
from modeling_unimur.training.ranks import fit_batch, reach_all_weights, reduce_trained_only
from tests.test_query_anchor import shake


def build(language_model: str, clip: str) -> UniMuRModel:
    """The same untrained model on every rank, with everything that can train."""
    processor = UniMuRProcessor.from_backbones(language_model, clip)
    torch.manual_seed(0)
    model = UniMuRModel.from_backbones(
        language_model, clip, processor=processor, projection_dim=16, map_image_targets=True, map_text_targets=True,
        separate_logit_scales=True, ret_token_loss_weight=0.5,
        query_anchor="encoder", query_attention=1.0, query_correction="mlp", query_gate=True,
    )  # fmt: skip
    shake(model)
    return model.double()  # so that what differs is the method and not the rounding


def half(batch: dict, rank: int, ranks: int, config) -> dict:
    """A rank's share of the rows, with their pictures."""
    size = len(batch["input_ids"]) // ranks
    mine = list(split_rows(batch, size, config))[rank]
    captions = list(split_rows(batch, size, config, "caption_"))
    mine.update(captions[rank] if rank < len(captions) else {})
    for name in batch:
        if name.startswith("target_"):
            mine[name] = batch[name].chunk(ranks)[rank]
    return mine


def step(model: UniMuRModel, mine: dict, chunk: int) -> torch.Tensor:
    """The loss; the gradients are at the weights.

    What wraps the model is gone on return: as the last owner of the ranks' connection it would close it while it holds
    Python's lock, for which the connection's thread may be waiting.
    """
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    wrapped = DistributedDataParallel(model)  # find_unused_parameters is off
    if chunk:
        outputs = gradient_cached_step(
            wrapped, mine, chunk, bare=model, backward=torch.Tensor.backward, no_sync=wrapped.no_sync,
            finish=lambda loss: reach_all_weights(loss, trained),
        )  # fmt: skip
    else:
        outputs = wrapped(**mine)
        reach_all_weights(outputs.loss, trained).backward()
    return outputs.loss.detach()


def main(language_model: str, clip: str, batch: str, output: str, chunk: int) -> None:
    """One step."""
    dist.init_process_group("gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    model = build(language_model, clip)
    reduce_trained_only(model)
    loss = step(model, fit_batch(model, half(load_file(batch), rank, ranks, model.config)), chunk)
    losses = [torch.zeros_like(loss) for _ in range(ranks)]
    dist.all_gather(losses, loss)
    if rank == 0:
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        save_file({"loss": torch.stack(losses).mean().reshape(1), **gradients}, output)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:5], int(sys.argv[5]))
