"""Similarity of replies to the gold replies under a CLIP model (MM-Relevance)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch.nn import functional as F

from ...encoding.encoder import Encoder
from ...modeling_univl_dr import UniVLDRModel
from ...processing_univl_dr import UniVLDRProcessor


class ClipJudge:
    """Unit vectors of texts and images by a CLIP, SigLIP or open_clip model.

    Args:
        source: folder or Hub id; MMDialog's own script judges by `openai/clip-vit-base-patch32`.

    Raises:
        ValueError: it cannot be loaded as a CLIP.
    """

    def __init__(self, source: str):
        try:
            model, processor = UniVLDRModel.from_pretrained(source).eval(), UniVLDRProcessor.from_pretrained(source)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"The judge {source!r} cannot be loaded as a CLIP: {str(error).splitlines()[0]}"
            ) from error
        self.encoder, self.source = Encoder(model, processor, progress=True), source

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """`(texts, width)`; a text that is too long is cut."""
        return F.normalize(self.encoder.encode_texts(texts, desc="Judging texts"), dim=-1).numpy()

    def images(self, paths: Sequence[str]) -> np.ndarray:
        """`(images, width)`; NaN for an image that cannot be read."""
        found = self.encoder.encode_images(paths, desc="Judging images")
        vectors = F.normalize(found.vectors, dim=-1)
        vectors[~found.readable] = np.nan
        return vectors.numpy()


__all__ = ["ClipJudge"]
