"""How a picture's vector and its caption's become one."""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init

from .configuration_univl_dr import UniVLDRConfig


class DocumentFusion(nn.Module):
    """The weight of the picture, or the map of picture and caption, where there is one that trains."""

    def __init__(self, config: UniVLDRConfig):
        super().__init__()
        width = config.embedding_width
        self.fusion, self.fixed_weight, self.width = config.fusion, config.image_weight, width
        self.image_weight = nn.Parameter(torch.empty(())) if config.learn_image_weight else None
        self.map = nn.Linear(2 * width, width) if config.fusion == "concat" else None

    @torch.no_grad()
    def start(self) -> None:
        """Sets what trains to what the plain sum is."""
        if self.image_weight is not None:
            init.constant_(self.image_weight, self.fixed_weight)
        if self.map is not None:
            eye = torch.eye(self.width, device=self.map.weight.device, dtype=self.map.weight.dtype)
            init.copy_(self.map.weight, torch.cat([self.fixed_weight * eye, eye], dim=1))
            init.zeros_(self.map.bias)

    def forward(
        self,
        images: "torch.Tensor | None",
        captions: "torch.Tensor | None",
        image_mask: "torch.Tensor | None" = None,
        caption_mask: "torch.Tensor | None" = None,
    ) -> torch.Tensor:
        """Unit vectors `(documents, width)`.

        Args:
            images, captions (`(documents, width)`, *optional*): not normalised.
            image_mask, caption_mask (`(documents,)`, *optional*): False where a document has no picture, or no
                caption; what it has is then all that counts.

        Raises:
            ValueError: with neither.
        """
        if images is None and captions is None:
            raise ValueError("A document is a text, a picture, or a picture with a caption; there is none of them.")
        if images is None or captions is None:
            return F.normalize(captions if images is None else images, dim=-1)
        has_image = (
            torch.ones(len(images), dtype=torch.bool, device=images.device) if image_mask is None else image_mask
        )
        has_caption = torch.ones_like(has_image) if caption_mask is None else caption_mask
        images, captions = (
            torch.where(mask[:, None], vectors, 0.0)
            for mask, vectors in ((has_image, images), (has_caption, captions))
        )
        if self.map is not None:
            joined = self.map(torch.cat([images, captions], dim=-1))
            fused = torch.where((has_image & has_caption)[:, None], joined, images + captions)
        elif self.fusion == "image":
            fused = torch.where(has_image[:, None], images, captions)
        elif self.fusion == "caption":
            fused = torch.where(has_caption[:, None], captions, images)
        else:
            weight = self.fixed_weight if self.image_weight is None else self.image_weight
            # A picture alone has a direction of its own, also where its weight is nothing.
            fused = torch.where(has_caption[:, None], weight * images + captions, images)
        return F.normalize(fused, dim=-1)


__all__ = ["DocumentFusion"]
