"""The space of a model's frozen dual encoder: its text tower, and the candidates embedded once for all systems."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F
from tqdm.auto import tqdm

from ...image_loading import load_image
from .base import Gallery, num_bytes

_TEXTS, _PICTURES = 64, 16


class ClipSpace:
    """What a dual encoder makes of texts and images.

    Args:
        model (`UniMuRModel`), processor (`UniMuRProcessor`): whose dual encoder it is.

    Raises:
        ValueError: for a model without a dual encoder.
    """

    def __init__(self, model, processor):
        if model.clip is None:
            raise ValueError(
                "This model has no dual encoder: it queries ready embeddings, and no gallery of files can be embedded "
                "for it. Compare a model with a dual encoder, such as unimur-mini."
            )
        self.model, self.processor = model, processor
        self._kept: dict = {}

    @property
    def weight_bytes(self) -> int:
        """Bytes of the dual encoder."""
        return num_bytes([self.model.clip])

    @torch.inference_mode()
    def texts(self, texts: Sequence[str], latest: bool = False, desc: str | None = None) -> torch.Tensor:
        """Unit vectors `(texts, width)`.

        Args:
            texts: in any order; they run in batches of like length.
            latest: keep the end of a text that is longer than the tower reads, not its beginning.
            desc: of a progress bar.
        """
        keep = "latest" if latest else "first"
        order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
        found = torch.empty(len(texts), self.model.config.joint_width)
        for start in tqdm(range(0, len(order), _TEXTS), desc=desc, disable=desc is None, leave=False):
            rows = order[start : start + _TEXTS]
            batch = self.processor.process_texts([texts[row] for row in rows], keep=keep).to(self.model.device)
            found[rows] = F.normalize(self.model.encode_texts(**batch).float().cpu(), dim=-1)
        return found

    @torch.inference_mode()
    def candidates(self, gallery: Gallery) -> dict[str, torch.Tensor]:
        """The dual encoder's outputs, before any trained map: `text (texts, width)`, `image (pictures, width)` and
        `pooled (pictures, pooled width)`; computed once a gallery."""
        if self._kept.get("gallery") is not gallery:
            pooled, projected = [], []
            for start in tqdm(range(0, len(gallery.images), _PICTURES), desc="Embedding images", leave=False):
                loaded = [load_image(path) for path in gallery.images[start : start + _PICTURES]]
                batch = self.processor.process_images(loaded).to(self.model.device)
                parts = self.model.encode_images(**batch)
                pooled.append(parts[0].float().cpu())
                projected.append(parts[1].float().cpu())
            width = self.model.config.joint_width
            self._kept = {
                "gallery": gallery,
                "text": self.texts(gallery.texts, desc="Embedding texts") if gallery.texts else torch.empty(0, width),
                "image": torch.cat(projected) if projected else torch.empty(0, width),
                "pooled": torch.cat(pooled) if pooled else torch.empty(0, 0),
            }
        return self._kept


__all__ = ["ClipSpace"]
