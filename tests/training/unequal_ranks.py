"""Run by torchrun: batches that do not fit each other are an error on every rank, and nobody waits.

torchrun --nproc-per-node 2 unequal_ranks.py LANGUAGE_MODEL CLIP
"""

import sys

import torch
import torch.distributed as dist

from modeling_unimur.contrastive_loss import contrastive_loss
from modeling_unimur.training.ranks import fit_batch, require_equal
from tests.training.two_ranks import build


def refused(what: str, function, *args) -> None:
    """Prints the error, or that there was none."""
    try:
        function(*args)
    except ValueError as error:
        print(f"{what} on rank {dist.get_rank()}: {error}", flush=True)
    else:
        print(f"{what} on rank {dist.get_rank()}: accepted", flush=True)


def main(language_model: str, clip: str) -> None:
    """Every kind of unequal batch, and one that is made equal."""
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    rows = torch.nn.functional.normalize(torch.randn(3 + rank, 8), dim=-1)
    refused("loss", contrastive_loss, rows, rows, torch.tensor(10.0))
    refused("rows", require_equal, {"rows": 3 + rank}, "cpu")
    model = build(language_model, clip)
    ids = torch.full((3 + rank, 4), 5)
    refused("contexts", fit_batch, model, {"input_ids": ids, "target_ids": torch.arange(3 + rank)})
    ids = torch.full((3, 4), 5)
    refused("target ids", fit_batch, model, {"input_ids": ids, **({"target_ids": torch.arange(3)} if rank else {})})
    model.equal_calls = True  # as when the language model is sharded
    captions = torch.full((1 + rank, 4), 5)
    refused(
        "captions", fit_batch, model, {"input_ids": ids, "caption_input_ids": captions, "caption_labels": captions}
    )
    model.equal_calls = False
    own = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if rank:
        own["target_image_features"] = torch.randn(3, 48)
    fitted = fit_batch(model, own)
    assert fitted["target_image_features"].shape == (3, 48)
    assert ("target_image_mask" in fitted) == (rank == 0)
    refused("fitted", fit_batch, model, own)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
