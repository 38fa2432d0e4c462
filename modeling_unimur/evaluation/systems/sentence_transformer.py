"""Any model of sentence-transformers as a system."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from ...encoding.text_encoders import load_sentence_transformer
from .base import Gallery, Messages, System, Weights, num_bytes, words_of_dialogue


class SentenceTransformerSystem(System):
    """A sentence encoder of the whole dialogue's words, against texts, and against the titles and tags of images.

    Args:
        source: Hub id or folder.
    """

    def __init__(self, source: str | os.PathLike):
        self.encoder = load_sentence_transformer(source)
        self.name = "/".join(Path(source).parts[-2:])  # a Hub id has no more
        self.sees = "the words of the whole dialogue; of images their titles and tags alone"

    def encode_candidates(self, gallery: Gallery, kind: str) -> torch.Tensor:
        texts = gallery.texts if kind == "text" else gallery.image_words
        return self.encoder.encode_document(list(texts), normalize_embeddings=True, convert_to_tensor=True).cpu()

    def encode_queries(self, dialogues: Sequence[Messages]) -> torch.Tensor:
        texts = [words_of_dialogue(messages) for messages in dialogues]
        return self.encoder.encode_query(
            texts, normalize_embeddings=True, convert_to_tensor=True, show_progress_bar=False
        ).cpu()

    def weights(self) -> Weights:
        own = num_bytes([self.encoder])
        return Weights(beyond=own, total=own)


__all__ = ["SentenceTransformerSystem"]
