"""Training rows of a dual encoder: each epoch draws a text of each image."""

from __future__ import annotations

import torch
from torch.utils.data import Dataset


class ClipRows(Dataset):
    """One row per image.

    Args:
        pooled (`(images, width)`): features of the images.
        texts (`(texts, text_width)`): features of all texts, image by image, the title first.
        counts (`(images,)`): texts of each image.
        groups (`(images,)`): images with equal numbers are right for each other's texts.
        seed: seed of the draws. They depend on it, the epoch and the row alone, so that a resumed run draws the same.
        title_share: probability of the title; otherwise any text of the image is as likely as the others.
    """

    def __init__(
        self,
        pooled: torch.Tensor,
        texts: torch.Tensor,
        counts: torch.Tensor,
        groups: torch.Tensor,
        seed: int,
        title_share: float = 0.0,
    ):
        self.pooled, self.texts, self.counts, self.groups = pooled, texts, counts, groups
        self.seed, self.title_share = seed, title_share
        self.first = counts.cumsum(0) - counts
        self.draw(epoch=0)

    # Not named `set_epoch`: accelerate calls that with epoch 0 where a run is resumed.
    def draw(self, epoch: int) -> None:
        """Draws a text for each row."""
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + epoch)
        any_text, titles = (torch.rand(len(self.counts), generator=generator) for _ in range(2))
        any_text = (any_text * self.counts).long().clamp(max=self.counts - 1)
        self.chosen_text = self.first + torch.where(titles < self.title_share, 0, any_text)

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        return {
            "pooled_features": self.pooled[row],
            "text_features": self.texts[self.chosen_text[row]],
            "target_ids": self.groups[row],
        }
