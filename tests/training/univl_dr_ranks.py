"""Run by torchrun: UniVL-DR's in-batch loss on each rank's queries and documents; rank 0 saves loss and gradient.

torchrun --nproc-per-node 2 univl_dr_ranks.py OUTPUT
"""

import sys

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from modeling_unimur.modeling_univl_dr import candidate_losses, gather_documents

# Of each rank: its queries, its documents (the ranks hold unequally many, and share 2), each query's positive, and
# what is no negative of a query besides.
SHARES = [
    {"queries": [0, 1], "documents": [0, 1, 2], "positives": [0, 2], "known": [[0, 3], [2]]},
    {"queries": [2, 3], "documents": [2, 3], "positives": [2, 3], "known": [[2], [3, 0]]},
]
WHOLE = {
    "queries": [0, 1, 2, 3],
    "documents": [0, 1, 2, 3],
    "positives": [0, 2, 2, 3],
    "known": [[0, 3], [2], [2], [3, 0]],
}


def inputs() -> "tuple[torch.Tensor, torch.Tensor, torch.Tensor]":
    """Queries, documents and the one weight that trains, float64."""
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(rows, 6, generator=generator, dtype=torch.float64) for rows in (4, 4, 6))


def loss_of(share: dict, queries: torch.Tensor, documents: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The mean loss of a share's queries over the documents of all ranks."""
    unit = torch.nn.functional.normalize
    asked, given = (
        unit(queries[share["queries"]] @ weight, dim=-1),
        unit(documents[share["documents"]] @ weight, dim=-1),
    )
    ids = torch.tensor(share["documents"])
    positives = torch.tensor([share["documents"].index(number) for number in share["positives"]])
    most = max(map(len, share["known"]))
    known = torch.tensor([[*row, *[-1] * (most - len(row))] for row in share["known"]])
    candidates = (~(ids[None, :, None] == known[:, None, :]).any(dim=-1)).to(torch.float64)
    candidates[torch.arange(len(positives)), positives] = 1
    given, positives, candidates = gather_documents(given, ids, positives, candidates, known)
    return candidate_losses(asked, given, torch.tensor(5.0), positives, candidates).mean()


def main(output: str) -> None:
    """One step, with the mean of loss and gradient over the ranks."""
    dist.init_process_group("gloo")
    queries, documents, weight = inputs()
    weight.requires_grad_()
    loss = loss_of(SHARES[dist.get_rank()], queries, documents, weight)
    loss.backward()
    found = {"loss": loss.detach().clone(), "gradient": weight.grad}
    for tensor in found.values():
        dist.all_reduce(tensor)
        tensor /= dist.get_world_size()
    if dist.get_rank() == 0:
        save_file(found, output)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
