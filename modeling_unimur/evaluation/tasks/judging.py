"""Similarity of replies to the gold replies under a CLIP model (MM-Relevance)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional as F
from tqdm.auto import tqdm

from ...image_loading import load_image

_BATCH = 32


class ClipJudge:
    """Unit vectors of texts and images by a CLIP of transformers.

    Args:
        source: folder or Hub id; MMDialog's own script judges by `openai/clip-vit-base-patch32`.

    Raises:
        ValueError: it cannot be loaded as a CLIP.
    """

    def __init__(self, source: str):
        from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

        try:
            self.model = AutoModel.from_pretrained(source).eval()
            self.tokenizer = AutoTokenizer.from_pretrained(source)
            self.image_processor = AutoImageProcessor.from_pretrained(source)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"The judge {source!r} cannot be loaded as a CLIP: {str(error).splitlines()[0]}"
            ) from error
        if not hasattr(self.model, "get_image_features"):
            raise ValueError(f"The judge {source!r} is a {type(self.model).__name__} and no CLIP.")
        self.source = source

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """`(texts, width)`; a text that is too long is cut."""
        length = self.model.config.text_config.max_position_embeddings
        parts = []
        for start in tqdm(range(0, len(texts), _BATCH), desc="Judging texts", leave=False):
            part = list(texts[start : start + _BATCH])
            batch = self.tokenizer(part, padding=True, truncation=True, max_length=length, return_tensors="pt")
            features = self.model.get_text_features(batch["input_ids"], attention_mask=batch["attention_mask"])
            parts.append(_unit(features))
        return np.concatenate(parts)

    @torch.inference_mode()
    def images(self, paths: Sequence[str]) -> np.ndarray:
        """`(pictures, width)`; NaN for an image that cannot be read."""
        parts = []
        for path in tqdm(paths, desc="Judging images", leave=False):
            try:
                picture = load_image(path)
            except (ValueError, OSError):
                parts.append(None)
                continue
            pixels = self.image_processor(picture, return_tensors="pt")["pixel_values"]
            parts.append(_unit(self.model.get_image_features(pixels))[0])
        width = self.model.config.projection_dim
        return np.stack([np.full(width, np.nan, np.float32) if part is None else part for part in parts])


def _unit(features) -> np.ndarray:
    features = features if isinstance(features, torch.Tensor) else features.pooler_output
    return F.normalize(features.float(), dim=-1).numpy()


__all__ = ["ClipJudge"]
