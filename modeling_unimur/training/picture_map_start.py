"""A start in closed form for the picture map: a picture comes in as the mean of its caption's words."""

from __future__ import annotations

import logging

import torch
from torch.nn import functional as F
from torch.utils.data import Dataset

from ..evaluation.systems.ridge import fit_ridge
from ..modeling_unimur import UniMuRModel
from .collators import DualAlignmentCollator
from .training_rows import all_rows

logger = logging.getLogger(__name__)


@torch.no_grad()
def start_picture_map(model: UniMuRModel, rows: Dataset, collator: DualAlignmentCollator, seed: int) -> float:
    """Sets the picture map to the ridge regression from a picture's features to the mean input vector of its
    caption's tokens, stretched about the mean word to the norm that word vectors have.

    A language model reads such a vector as a blur of those words, before a single step of training; from random
    weights a small language model does not learn to look at its pictures within hundreds of steps.

    Args:
        model: before training.
        rows: of `context_rows`, or alike; those with a caption are read.
        collator: the run's.
        seed: of the rows that choose the penalty.

    Returns:
        `float`: the penalty that was chosen.

    Raises:
        ValueError: when no row has a caption.
    """
    table = model.get_input_embeddings().weight
    captioned = [row for row in all_rows(rows) if row["caption"]]
    if not captioned:
        raise ValueError("The picture map starts from captions, and no row has one: leave closed_form_start out.")
    features = torch.stack([row["caption_visual_features"] for row in captioned]).float()
    lines = collator.processor.tokenizer([row["caption"] for row in captioned], add_special_tokens=False)["input_ids"]
    words = [table[torch.tensor(line[: collator.max_caption_tokens])].float().mean(dim=0) for line in lines]
    groups = torch.stack([torch.as_tensor(row["target_ids"]) for row in captioned])
    found = fit_ridge(features, F.normalize(torch.stack(words).cpu(), dim=-1), groups, seed=seed)
    mapped, mean_word = found(features), table.float().mean(dim=0).cpu()
    middle = mapped.mean(dim=0)
    stretch = table.float().norm(dim=1).mean().cpu() / (mapped - middle).norm(dim=1).mean()
    parts = model.heads.visual_tokens  # each input vector of a picture starts as the same one
    model.heads.visual_map.weight.copy_((stretch * found.weight).repeat(parts, 1))
    model.heads.visual_map.bias.copy_((stretch * (found.bias - middle) + mean_word).repeat(parts))
    logger.info("Picture map: from %d captions, penalty %g, stretched %.2f times", len(words), found.penalty, stretch)
    return found.penalty


__all__ = ["start_picture_map"]
