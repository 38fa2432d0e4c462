"""UniMuR itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from .base import Gallery, Messages, RetrievalSystem, Weights, num_bytes
from .clip_space import ClipSpace

_BATCH = 8


class UniMuR(RetrievalSystem):
    """The unified embedding, read by the language model at [RET].

    Args:
        space: of the model's dual encoder.
        name: its row of a table.
    """

    sees = "the whole dialogue, images in it too; candidates by the dual encoder's vectors"

    def __init__(self, space: ClipSpace, name: str = "UniMuR"):
        self.space, self.name = space, name
        self.model, self.processor = space.model, space.processor
        self._candidates: dict[str, torch.Tensor] = {}

    @torch.inference_mode()
    def index(self, gallery: Gallery) -> None:
        found, config, heads = self.space.candidates(gallery), self.model.config, self.model.heads
        pooled = config.map_image_targets and config.visual_feature == "pooled"
        images = found["pooled" if pooled else "image"].to(self.model.device)
        self._candidates = {
            "text": heads.text_target(found["text"].to(self.model.device)).float().cpu(),
            "image": heads.image_target(images).float().cpu() if len(images) else images,
        }

    @torch.inference_mode()
    def encode_queries(self, dialogues: Sequence[Messages]) -> torch.Tensor:
        parts = []
        for start in range(0, len(dialogues), _BATCH):
            batch = self.processor.process_context(list(dialogues[start : start + _BATCH])).to(self.model.device)
            parts.append(self.model.get_multimodal_features(**batch).pooler_output.float().cpu())
        return torch.cat(parts)

    def scores(self, queries: torch.Tensor, kind: str) -> np.ndarray:
        return (queries @ self._candidates[kind].T).numpy()

    def weights(self) -> Weights:
        beyond = num_bytes([self.model.language_model, self.model.heads])
        return Weights(beyond=beyond, total=beyond + self.space.weight_bytes)


__all__ = ["UniMuR"]
