"""The space of a model's frozen dual encoder: its text tower, and the candidates embedded once for all systems."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from ...encoding.encoder import Encoder
from ...image_loading import load_image
from .base import Gallery, num_bytes

_IMAGES = 16


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
        self.encoder, self._kept = Encoder(model, processor, progress=True), {}

    @property
    def weight_bytes(self) -> int:
        """Bytes of the dual encoder."""
        return num_bytes([self.model.clip])

    def texts(self, texts: Sequence[str], latest: bool = False, desc: str | None = None) -> torch.Tensor:
        """Unit vectors `(texts, width)`.

        Args:
            texts: in any order; they run in batches of like length.
            latest: keep the end of a text that is longer than the tower reads, not its beginning.
            desc: of a progress bar.
        """
        return F.normalize(self.encoder.encode_texts(texts, "latest" if latest else "first", desc), dim=-1)

    def candidates(self, gallery: Gallery) -> dict[str, torch.Tensor]:
        """The dual encoder's outputs, before any trained map: `text (texts, width)`, `image (images, width)` and
        `pooled (images, pooled width)`; computed once a gallery."""
        if self._kept.get("gallery") is not gallery:
            found = self.encoder.encode_images(gallery.images, load_image, _IMAGES, with_pooled=True)
            texts = self.texts(gallery.texts, desc="Embedding texts")
            self._kept = {"gallery": gallery, "text": texts, "image": found.vectors, "pooled": found.pooled}
        return self._kept


__all__ = ["ClipSpace"]
