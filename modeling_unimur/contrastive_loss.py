"""The contrastive loss, over the candidates of all ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch.nn import functional as F


class _AllGather(torch.autograd.Function):
    """Concatenates the ranks' tensors; the gradient of every rank's loss flows back to the rank of each row. The
    function of `torch.distributed.nn` does the same and is deprecated from torch 2.14 on."""

    @staticmethod
    def forward(ctx, tensor):
        ctx.rows = tensor.shape[0]
        gathered = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(gathered, tensor.contiguous())
        return torch.cat(gathered)

    @staticmethod
    def backward(ctx, gradient):
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        start = dist.get_rank() * ctx.rows
        return gradient[start : start + ctx.rows]


def world_size() -> int:
    """Number of ranks that train together, 1 outside distributed training."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather_with_gradient(tensor: torch.Tensor) -> torch.Tensor:
    """`(rows, ...)` on each rank, equally many, to `(ranks * rows, ...)` on all."""
    return _AllGather.apply(tensor) if world_size() > 1 else tensor


def gather(tensor: torch.Tensor) -> torch.Tensor:
    """`gather_with_gradient` without a gradient."""
    return gather_with_gradient(tensor.detach())


def at_least_float32(tensor: torch.Tensor) -> torch.dtype:
    """The dtype of logits: float32, or that of the tensor where it is wider."""
    return torch.promote_types(tensor.dtype, torch.float32)


def _require_equal_rows(rows: int, device) -> None:
    """Gathering unequal batches would wait forever, or mix rows up."""
    every = gather(torch.tensor([rows], device=device)).tolist()
    if len(set(every)) > 1:
        raise ValueError(
            f"The ranks hold batches of {every} rows; their candidates compete, so each needs as many. Drop what is "
            "left over at the end (dataloader_drop_last: true)."
        )


def contrastive_loss(
    queries: torch.Tensor,
    candidates: torch.Tensor,
    scale: torch.Tensor,
    target_ids: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    negatives: torch.Tensor | None = None,
) -> torch.Tensor:
    """Symmetric InfoNCE between row i of the queries and row i of the candidates (UniMuR's visual and textual
    matching; the form is FROMAGe's: the mean of both directions). The loss is zero when the mask leaves no row.

    With several ranks, which must hold equally many rows, the candidates of all of them compete, and the mean over
    ranks of loss and gradient is what one process with the whole batch computes. Logits are float32 whatever the
    inputs are, under autocast too: at a scale of 100, bfloat16 would round them to steps of a half.

    Args:
        queries, candidates (`(batch, width)`): normalised.
        scale (`torch.Tensor`): factor on the cosines, the inverse temperature.
        target_ids (`(batch,)`, *optional*): rows with equal ids are right answers for each other and share the target
            evenly; without them only row i is right for row i.
        mask (`(batch,)`, *optional*): False for rows without a candidate; they take no part.
        negatives (`(batch, count, width)`, *optional*): hard negatives of each query, normalised, with which only that
            query is compared.

    Raises:
        ValueError: when the ranks hold unequal numbers of rows.
    """
    rows = queries.shape[0]
    if world_size() > 1:
        _require_equal_rows(rows, queries.device)
    queries = queries.to(at_least_float32(queries))
    candidates, scale = candidates.to(queries.dtype), scale.to(queries.dtype)
    if target_ids is None:
        rank = dist.get_rank() if world_size() > 1 else 0
        target_ids = torch.arange(rank * rows, (rank + 1) * rows, device=queries.device)
    if mask is None:
        mask = torch.ones(rows, dtype=torch.bool, device=queries.device)
    all_ids, all_mask = gather(target_ids), gather(mask)
    right = (target_ids[:, None] == all_ids[None, :]) & all_mask[None, :]
    # Rows of the mask keep themselves as the only target, so that no row is without one; they weigh nothing.
    target = right.to(queries.dtype) / right.sum(dim=1, keepdim=True).clamp(min=1)
    weight = mask.to(queries.dtype) / all_mask.sum().clamp(min=1)

    def one_way(own: torch.Tensor, others: torch.Tensor, further: torch.Tensor | None = None) -> torch.Tensor:
        logits = scale * own @ gather_with_gradient(others).T
        logits = logits.masked_fill(~all_mask[None, :], torch.finfo(logits.dtype).min)
        if further is not None:
            logits = torch.cat([logits, scale * torch.einsum("qw,qnw->qn", own, further.to(own.dtype))], dim=1)
        log_shares = F.log_softmax(logits, dim=-1)[:, : len(all_mask)]
        return (-(target * log_shares).sum(dim=-1) * weight).sum()

    with torch.autocast(queries.device.type, enabled=False):
        # Times the ranks, since distributed training takes the mean over them.
        return (one_way(queries, candidates, negatives) + one_way(candidates, queries)) / 2 * world_size()


def sum_over_prefixes(loss: Callable, vectors: Sequence[torch.Tensor | None], config) -> torch.Tensor:
    """`loss(*vectors)`, or with `config.matryoshka_dims` the sum of it over their first numbers alone, at length 1
    (Matryoshka representation learning, Kusupati et al., 2022), weighted by `config.matryoshka_weights`."""
    if config.matryoshka_dims is None:
        return loss(*vectors)
    whole = [one if one is None else one.to(at_least_float32(one)) for one in vectors]
    weights = config.matryoshka_weights or [1.0] * len(config.matryoshka_dims)
    cut = ([v if v is None else F.normalize(v[..., :dim], dim=-1) for v in whole] for dim in config.matryoshka_dims)
    return sum(weight * loss(*some) for weight, some in zip(weights, cut, strict=True))
