"""Queries and documents as the vectors of a dual encoder, images and captions apart so that they can be weighed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from tqdm.auto import tqdm

from ...data.picture_bytes import decode_picture, read_picture_bytes
from .task import RetrievalTask

logger = logging.getLogger(__name__)

_TEXTS, _PICTURES = 64, 32


class Encoder(Protocol):
    """Any dual encoder."""

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Texts as `(texts, width)`, not normalised."""

    def encode_images(self, addresses: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Images as `(pictures, width)`, not normalised, and which of them could be read `(pictures,)`."""

    def fuse(self, images: np.ndarray, captions: np.ndarray, has_image: np.ndarray, has_caption: np.ndarray):
        """Image and caption vectors `(pictures, width)` as unit vectors of the same shape."""


class UniVLDREncoder:
    """A `UniVLDRModel` with its processor.

    Args:
        model, processor: the model, on any device.
        pooled (`Callable`, *optional*): gives the image tower's outputs `(pictures, pooled_width)` of addresses and
            which of them could be read, where they are kept; the projection alone is then computed.
        progress: whether to show bars.
    """

    def __init__(
        self,
        model,
        processor,
        pooled: Callable[[Sequence[str]], tuple[torch.Tensor, np.ndarray]] | None = None,
        progress: bool = True,
    ):
        self.model, self.processor, self.pooled, self.progress = model, processor, pooled, progress

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Texts as `(texts, width)`, in batches of like length."""
        order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
        found = np.zeros((len(texts), self.model.config.embedding_width), dtype=np.float32)
        for start in tqdm(range(0, len(order), _TEXTS), desc="Encoding texts", disable=not self.progress):
            rows = order[start : start + _TEXTS]
            batch = self.processor.process_texts([texts[row] for row in rows]).to(self.model.device)
            found[rows] = self.model.encode_texts(**batch).float().cpu().numpy()
        return found

    @torch.inference_mode()
    def encode_images(self, addresses: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Images as `(pictures, width)`, and which could be read; what could not is counted in the log."""
        found = np.zeros((len(addresses), self.model.config.embedding_width), dtype=np.float32)
        readable = np.zeros(len(addresses), dtype=bool)
        for start in tqdm(range(0, len(addresses), _PICTURES), desc="Encoding images", disable=not self.progress):
            part = addresses[start : start + _PICTURES]
            if self.pooled is not None:
                features, good = self.pooled(part)
                inputs = {"pooled_features": features.to(self.model.device, self.model.dtype)}
            else:
                loaded = [_load(address) for address in part]
                good = np.array([picture is not None for picture in loaded])
                shown = [picture for picture in loaded if picture is not None]
                inputs = self.processor.process_images(shown).to(self.model.device) if shown else {}
            readable[start : start + len(part)] = good
            if good.any():
                found[start + np.flatnonzero(good)] = self.model.encode_images(**inputs).float().cpu().numpy()
        if not readable.all():
            logger.warning("%d of %d images could not be read", int((~readable).sum()), len(addresses))
        return found, readable

    @torch.inference_mode()
    def fuse(self, images: np.ndarray, captions: np.ndarray, has_image: np.ndarray, has_caption: np.ndarray):
        """As the model's own configuration has it."""
        fusion = self.model.fusion
        place = {"device": self.model.device, "dtype": torch.float32}
        parts = [torch.as_tensor(vectors).to(**place) for vectors in (images, captions)]
        masks = [torch.as_tensor(mask).to(self.model.device) for mask in (has_image, has_caption)]
        if fusion.map is not None:
            parts = [part.to(fusion.map.weight.dtype) for part in parts]
        return fusion(*parts, image_mask=masks[0], caption_mask=masks[1]).float().cpu().numpy()


def _load(address: str):
    try:
        return decode_picture(read_picture_bytes(address), address)
    except (OSError, ValueError) as error:
        logger.debug("%s", error)
        return None


@dataclass
class EncodedDocuments:
    """A corpus as vectors that are not normalised yet.

    Args:
        texts (`(documents, width)`): of texts, and of images' captions; zeros where there are no words.
        images (`(pictures, width)`): of images, in the order of the corpus; zeros where none could be read.
        is_image (`(documents,)`), has_caption, has_image (`(pictures,)`): what there is.
    """

    texts: np.ndarray
    images: np.ndarray
    is_image: np.ndarray
    has_caption: np.ndarray
    has_image: np.ndarray

    def weighted(self, image_weight: float) -> np.ndarray:
        """Unit vectors `(documents, width)`, images as `image_weight` x image + caption; infinity leaves the
        image alone, 0 the caption alone. A document that lacks one of them is the other."""
        shown = self.images if np.isinf(image_weight) else image_weight * self.images
        captions = self.texts[self.is_image] * (0.0 if np.isinf(image_weight) else 1.0)
        both = (self.has_image & self.has_caption)[:, None]
        return self._with_pictures(np.where(both, shown + captions, self.images + self.texts[self.is_image]))

    def without_captions(self) -> EncodedDocuments:
        """The same corpus whose images have no words."""
        texts = self.texts.copy()
        texts[self.is_image] = 0
        return replace(self, texts=texts, has_caption=np.zeros_like(self.has_caption))

    def fused(self, encoder: Encoder) -> np.ndarray:
        """Unit vectors `(documents, width)`, images and captions joined by the encoder itself."""
        captions = self.texts[self.is_image]
        return self._with_pictures(encoder.fuse(self.images, captions, self.has_image, self.has_caption))

    def _with_pictures(self, vectors: np.ndarray) -> np.ndarray:
        documents = self.texts.copy()
        documents[self.is_image] = vectors
        return unit(documents)


def encode_documents(encoder: Encoder, task: RetrievalTask) -> EncodedDocuments:
    """Encodes a task's corpus, each text and image once; equal texts once for all."""
    distinct: dict[str, int] = {}
    places = np.array([distinct.setdefault(text.strip(), len(distinct)) for text in task.doc_texts], dtype=np.int64)
    texts = encoder.encode_texts(list(distinct))[places]
    written = np.array([bool(text.strip()) for text in task.doc_texts], dtype=bool)
    texts = np.where(written[:, None], texts, 0.0).astype(np.float32)
    shown = np.flatnonzero(task.is_image)
    addresses = [task.doc_images[number] for number in shown]
    filed = np.array([bool(address) for address in addresses], dtype=bool)
    images = np.zeros((len(shown), texts.shape[1]), dtype=np.float32)
    has_image = np.zeros(len(shown), dtype=bool)
    if filed.any():
        found, readable = encoder.encode_images([address for address in addresses if address])
        images[filed], has_image[filed] = found, readable
        images[~has_image] = 0
    return EncodedDocuments(texts, images, task.is_image, written[shown], has_image)


def encode_queries(encoder: Encoder, task: RetrievalTask) -> np.ndarray:
    """Queries as unit vectors `(queries, width)`."""
    return unit(encoder.encode_texts(list(task.query_texts)))


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of length 1; a row of zeros stays one."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)


__all__ = [
    "EncodedDocuments",
    "Encoder",
    "UniVLDREncoder",
    "encode_documents",
    "encode_queries",
    "unit",
]
