"""Any model of sentence-transformers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ...processing_unimur import load_sentence_transformer
from .base import Gallery, Messages, RetrievalSystem, Weights, num_bytes, words_of_dialogue


class SentenceTransformerSystem(RetrievalSystem):
    """A sentence encoder of the whole dialogue's words, against texts, and against the titles and tags of pictures.

    Args:
        source: Hub id or folder.
    """

    def __init__(self, source: str | os.PathLike):
        self.encoder = load_sentence_transformer(source)
        self.name = "/".join(Path(source).parts[-2:])  # a Hub id has no more
        self.sees = "the words of the whole dialogue; of images their titles and tags alone"
        self._candidates: dict[str, torch.Tensor] = {}

    def index(self, gallery: Gallery) -> None:
        for kind, texts in (("text", gallery.texts), ("image", gallery.image_words)):
            if len(texts):
                self._candidates[kind] = self.encoder.encode_document(
                    list(texts), normalize_embeddings=True, convert_to_tensor=True
                ).cpu()

    def encode_queries(self, dialogues: Sequence[Messages]) -> torch.Tensor:
        texts = [words_of_dialogue(messages) for messages in dialogues]
        return self.encoder.encode_query(
            texts, normalize_embeddings=True, convert_to_tensor=True, show_progress_bar=False
        ).cpu()

    def scores(self, queries: torch.Tensor, kind: str) -> np.ndarray:
        return (queries @ self._candidates[kind].T).numpy()

    def weights(self) -> Weights:
        own = num_bytes([self.encoder])
        return Weights(beyond=own, total=own)


__all__ = ["SentenceTransformerSystem"]
