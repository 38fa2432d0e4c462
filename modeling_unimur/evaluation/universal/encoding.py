"""Encodes queries and documents by a dual encoder; images and captions are kept separate so that they can be
weighted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch

from .task import RetrievalTask


class DualEncoder(Protocol):
    """Any dual encoder; `encoding.encoder.Encoder` is that of a model."""

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray | torch.Tensor:
        """Encodes texts as `(texts, width)`, not normalised."""

    def encode_images(self, addresses: Sequence[str]) -> tuple[np.ndarray | torch.Tensor, ...]:
        """Encodes images as `(images, width)`, not normalised, and returns which could be read `(images,)`."""

    def fuse(self, images: np.ndarray, captions: np.ndarray, has_image: np.ndarray, has_caption: np.ndarray):
        """Fuses image and caption vectors `(images, width)` to unit vectors of the same shape."""


@dataclass
class EncodedDocuments:
    """A corpus as vectors that are not normalised yet.

    Args:
        texts (`(documents, width)`): of texts, and of images' captions; zeros where there are no words.
        images (`(images, width)`): of images, in the order of the corpus; zeros where none could be read.
        is_image (`(documents,)`), has_caption, has_image (`(images,)`): what there is.
    """

    texts: np.ndarray
    images: np.ndarray
    is_image: np.ndarray
    has_caption: np.ndarray
    has_image: np.ndarray

    def weighted(self, image_weight: float) -> np.ndarray:
        """Returns unit vectors `(documents, width)`; images are `image_weight` x image + caption. A document that
        lacks one of them is the other."""
        both, captions = (self.has_image & self.has_caption)[:, None], self.texts[self.is_image]
        return self._with_images(np.where(both, image_weight * self.images, self.images) + captions)

    def without_captions(self) -> EncodedDocuments:
        """Returns the same corpus with images that have no words."""
        texts = self.texts.copy()
        texts[self.is_image] = 0
        return replace(self, texts=texts, has_caption=np.zeros_like(self.has_caption))

    def fused(self, encoder: DualEncoder) -> np.ndarray:
        """Returns unit vectors `(documents, width)`; the encoder itself fuses images and captions."""
        captions = self.texts[self.is_image]
        return self._with_images(np.asarray(encoder.fuse(self.images, captions, self.has_image, self.has_caption)))

    def _with_images(self, vectors: np.ndarray) -> np.ndarray:
        documents = self.texts.copy()
        documents[self.is_image] = vectors
        return unit(documents)


def encode_documents(encoder: DualEncoder, task: RetrievalTask) -> EncodedDocuments:
    """Encodes a task's corpus; equal texts and images are encoded once."""
    distinct: dict[str, int] = {}
    places = np.array([distinct.setdefault(text.strip(), len(distinct)) for text in task.doc_texts], dtype=np.int64)
    texts = np.asarray(encoder.encode_texts(list(distinct)))[places]
    written = np.array([bool(text.strip()) for text in task.doc_texts], dtype=bool)
    texts = np.where(written[:, None], texts, 0.0).astype(np.float32)
    shown = np.flatnonzero(task.is_image)
    addresses = [task.doc_images[number] for number in shown]
    filed = np.array([bool(address) for address in addresses], dtype=bool)
    images = np.zeros((len(shown), texts.shape[1]), dtype=np.float32)
    has_image = np.zeros(len(shown), dtype=bool)
    if filed.any():
        found, readable = map(np.asarray, encoder.encode_images([address for address in addresses if address])[:2])
        images[filed], has_image[filed] = found, readable
        images[~has_image] = 0
    return EncodedDocuments(texts, images, task.is_image, written[shown], has_image)


def encode_queries(encoder: DualEncoder, task: RetrievalTask) -> np.ndarray:
    """Encodes queries as unit vectors `(queries, width)`."""
    return unit(np.asarray(encoder.encode_texts(list(task.query_texts))))


def unit(vectors: np.ndarray) -> np.ndarray:
    """Scales rows to length 1; a row of zeros stays one."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)
