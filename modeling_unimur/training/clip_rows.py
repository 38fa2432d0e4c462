"""Training rows of a dual encoder: each epoch draws a view and a text of each image."""

from dataclasses import dataclass

import torch
from torch.utils.data import Dataset


@dataclass
class Draws:
    """What an epoch draws.

    Args:
        seed: of the draws. They depend on it, the epoch and the row alone, so that a resumed run draws the same.
        title_share: probability of the title; otherwise any text of the image is as likely as the others.
        view_share: probability of a view; otherwise the image itself.
    """

    seed: int = 0
    title_share: float = 0.4
    view_share: float = 0.7


class ClipRows(Dataset):
    """One row per image.

    Args:
        pooled (`(images, width)`): features of the images.
        views (`(images, views, width)`): of their views; there may be none.
        texts (`(texts, text_width)`): features of all texts, image by image, the title first.
        counts (`(images,)`): texts of each image.
        groups (`(images,)`): images with equal numbers are right for each other's texts.
        draws (`Draws`): what an epoch draws.
    """

    def __init__(
        self,
        pooled: torch.Tensor,
        views: torch.Tensor,
        texts: torch.Tensor,
        counts: torch.Tensor,
        groups: torch.Tensor,
        draws: Draws,
    ):
        self.pooled, self.views, self.texts, self.counts, self.groups = pooled, views, texts, counts, groups
        self.draws = draws
        self.first = counts.cumsum(0) - counts
        self.draw(epoch=0)

    # Not named `set_epoch`: accelerate calls that with epoch 0 where a run is resumed.
    def draw(self, epoch: int) -> None:
        """Draws a view and a text for each row."""
        generator = torch.Generator().manual_seed(1_000_003 * self.draws.seed + epoch)
        rows = len(self.counts)

        def uniform() -> torch.Tensor:
            return torch.rand(rows, generator=generator)

        any_text = (uniform() * self.counts).long().clamp(max=self.counts - 1)
        self.chosen_text = self.first + torch.where(uniform() < self.draws.title_share, 0, any_text)
        any_view = (uniform() * self.views.shape[1]).long()
        own = (uniform() >= self.draws.view_share) | torch.tensor(self.views.shape[1] == 0)
        self.chosen_view = torch.where(own, -1, any_view)

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, row: int) -> "dict[str, torch.Tensor]":
        view = int(self.chosen_view[row])
        return {
            "pooled_features": self.pooled[row] if view < 0 else self.views[row, view],
            "text_features": self.texts[self.chosen_text[row]],
            "target_ids": self.groups[row],
        }
