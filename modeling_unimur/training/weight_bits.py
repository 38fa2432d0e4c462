"""Exact checksums of tensors, at the speed of memory."""

import torch

# 8-byte words summed at one time: 128 MB.
_CHUNK = 2**24


def local_parts(tensor: torch.Tensor) -> list[torch.Tensor]:
    """The plain tensors that this process holds of a tensor: itself, the local shard of a distributed one, the codes
    and scales of a quantised one. Nothing of one without storage (offloaded, or on the meta device)."""
    if hasattr(tensor, "__tensor_flatten__"):
        names, _ = tensor.__tensor_flatten__()
        inner = [getattr(tensor, name) for name in names]
        return [part for value in inner if isinstance(value, torch.Tensor) for part in local_parts(value)]
    return [] if tensor.is_meta else [tensor.detach()]


def checksum(tensor: torch.Tensor) -> torch.Tensor:
    """The sum of a tensor's bits, read as integers of eight bytes, modulo 2^64; on the tensor's device, without
    waiting for it. Any change of one word changes it.

    Returns:
        0-dimensional `torch.int64` tensor.
    """
    total = None
    for part in local_parts(tensor):
        raw = part.contiguous().view(-1).view(torch.uint8)
        words = raw.numel() // 8
        if raw.storage_offset() % 8:  # cannot be read as words where it lies
            raw = raw.clone()
        whole = raw[: 8 * words].view(torch.int64)
        sums = [chunk.sum() for chunk in whole.split(_CHUNK)] if words else []
        rest = raw[8 * words :]  # filled up to a word: a sum of its bytes is the same for many values
        if rest.numel():
            sums.append(torch.cat([rest, rest.new_zeros(8 - rest.numel())]).view(torch.int64).sum())
        if not sums:
            continue
        here = torch.stack(sums).sum()
        total = here if total is None else total + here.to(total.device)
    return torch.zeros((), dtype=torch.int64) if total is None else total


def numel(tensor: torch.Tensor) -> int:
    """Elements that this process holds."""
    return sum(part.numel() for part in local_parts(tensor))


__all__ = ["checksum", "local_parts", "numel"]
