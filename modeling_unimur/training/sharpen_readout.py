"""InfoNCE on kept states: the readout's linear map trained in seconds, with everything before it as it was."""

from __future__ import annotations

import torch
from torch.nn import functional as F
from tqdm.auto import trange

from ..contrastive_loss import contrastive_loss
from ..evaluation.systems.ridge import RidgeMap
from .closed_form_start import ReadContexts, from_standard

# CLIP's temperature at its start. Both were chosen on 300 held-out WordNet glosses (SmolLM2-135M, all-MiniLM-L6-v2):
# factors of 50 and more on the cosines, or ten times the rate, lose what the closed form had.
_SCALE = 1 / 0.07
_LEARNING_RATE = 2e-4
_STEPS = 100
_BATCH = 512


def sharpen_readout(read: ReadContexts, start: RidgeMap, seed: int, steps: int = _STEPS) -> RidgeMap:
    """Goes on from a map in closed form, by the paper's matching losses at a fixed temperature.

    It works in standardised states: single dimensions of a language model's hidden states are hundreds of times larger
    than others, and one learning rate would fit none of them.

    Args:
        read: contexts and their right vectors; texts compete with texts and pictures with pictures.
        start: the map to begin with; it is not changed.
        seed: of the batches.
        steps: of AdamW, 512 contexts each.

    Returns:
        `RidgeMap`: from plain states, with the penalty of the start.
    """
    mean, spread = read.moments()
    standard, before = (read.states - mean) / spread, start(read.states)
    change = torch.zeros_like(start.weight).requires_grad_()
    bias = torch.zeros_like(start.bias).requires_grad_()
    optimizer = torch.optim.AdamW([change, bias], lr=_LEARNING_RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    generator, scale = torch.Generator().manual_seed(seed), torch.tensor(_SCALE)
    kinds = [rows for rows in (read.is_image.logical_not(), read.is_image) if bool(rows.any())]
    parts = [rows.nonzero().flatten() for rows in kinds]
    with torch.enable_grad():
        for _ in trange(steps, desc="Sharpening the readout"):
            losses = []
            for part in parts:
                rows = part[torch.randperm(len(part), generator=generator)[:_BATCH]]
                queries = F.normalize(before[rows] + standard[rows] @ change.T + bias, dim=-1)
                losses.append(contrastive_loss(queries, read.targets[rows], scale, read.groups[rows]))
            optimizer.zero_grad()
            torch.stack(losses).sum().backward()
            optimizer.step()
            schedule.step()
    turned = from_standard(RidgeMap(change.detach(), bias.detach(), start.penalty), mean, spread)
    return RidgeMap(start.weight + turned.weight, start.bias + turned.bias, start.penalty)


__all__ = ["sharpen_readout"]
