"""Run by torchrun: one training step on each rank's half of a batch; rank 0 saves losses and gradients.

torchrun --nproc-per-node 2 two_ranks.py LANGUAGE_MODEL CLIP BATCH OUTPUT
"""

import sys

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch.nn.parallel import DistributedDataParallel

from modeling_unimur import UniMuRModel, UniMuRProcessor


def build(language_model: str, clip: str) -> UniMuRModel:
    """The same untrained model on every rank."""
    processor = UniMuRProcessor.from_backbones(language_model, clip)
    torch.manual_seed(0)
    model = UniMuRModel.from_backbones(
        language_model, clip, processor=processor, caption_loss_weight=0.0, separate_logit_scales=True
    )
    return model.double()  # so that what differs is the method and not the rounding


def main(language_model: str, clip: str, batch: str, output: str) -> None:
    """One step."""
    dist.init_process_group("gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    model = build(language_model, clip)
    model.heads.visual_map.requires_grad_(False)  # no pictures in these contexts
    wrapped = DistributedDataParallel(model)
    mine = {key: value.chunk(ranks)[rank] for key, value in load_file(batch).items()}
    loss = wrapped(**mine).loss
    loss.backward()
    losses = [torch.zeros_like(loss) for _ in range(ranks)]
    dist.all_gather(losses, loss.detach())
    if rank == 0:
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        save_file({"loss": torch.stack(losses).mean().reshape(1), **gradients}, output)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
