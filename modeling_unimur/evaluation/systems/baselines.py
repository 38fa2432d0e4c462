"""Systems without this package's models: BM25, any model of sentence-transformers, and the chance level."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from ...conversation import words_of_dialogue
from ...encoding.text_encoders import load_sentence_transformer
from ...index.hybrid import WordIndex, split_words
from .base import Gallery, Messages, System, Weights, num_bytes

# Width of the vectors of chance.
_WIDTH = 32


class BM25(System):
    """Ranks by BM25 (`index.hybrid.WordIndex`) of the whole dialogue's words: candidate texts, and titles and tags of
    images.

    Args:
        matches_only: whether a candidate that shares no word with the query is not returned, and not only comes last.

    Raises:
        ImportError: without `bm25s`.
    """

    name = "BM25"
    has_vectors = False
    sees = "the words of the whole dialogue; of images their titles and tags alone"

    def __init__(self, matches_only: bool = False):
        split_words(())  # raises now
        self.matches_only = matches_only
        self._bytes: dict[str, int] = {}

    def encode_candidates(self, gallery: Gallery, kind: str) -> WordIndex:
        """Builds an index of the candidates' words."""
        index = WordIndex(gallery.texts if kind == "text" else gallery.image_words)
        self._bytes[kind] = index.num_bytes
        return index

    def encode_queries(self, dialogues: Sequence[Messages]) -> list[list[str]]:
        return split_words([words_of_dialogue(messages) for messages in dialogues])

    def scores(self, queries: list[list[str]], candidates: Mapping[str, WordIndex], kind: str) -> np.ndarray:
        found = [candidates[kind].scores(words) for words in queries]
        scores = np.stack(found) if found else np.zeros((0, candidates[kind].count), np.float32)
        return np.where(scores > 0, scores, -np.inf) if self.matches_only else scores

    def weights(self) -> Weights:
        """Returns the size of the last indexes."""
        return Weights(beyond=sum(self._bytes.values()), total=sum(self._bytes.values()))


class SentenceTransformerSystem(System):
    """Ranks by a sentence encoder (`source`, Hub id or folder) of the whole dialogue's words: candidate texts, and
    titles and tags of images."""

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


class Chance(System):
    """Ranks the candidates in a random order, which differs between dialogues and is fixed by the seed."""

    name = "chance"
    sees = "nothing"

    def __init__(self, seed: int = 0):
        self.seed = seed
        self.revision = f"seed {seed}"

    def _drawn(self, items: Sequence[str]) -> torch.Tensor:
        """Random directions, seeded by the items' names."""
        rows = []
        for item in items:
            digest = hashlib.sha256(f"{self.seed} {item}".encode("utf-8", "surrogatepass")).digest()
            rows.append(np.random.default_rng(int.from_bytes(digest[:8], "big")).standard_normal(_WIDTH))
        return torch.tensor(np.array(rows, dtype=np.float32).reshape(-1, _WIDTH))

    def encode_candidates(self, gallery: Gallery, kind: str) -> torch.Tensor:
        return self._drawn(gallery.texts if kind == "text" else gallery.image_ids)

    def encode_queries(self, dialogues: Sequence[Messages]) -> torch.Tensor:
        return self._drawn([repr(messages) for messages in dialogues])

    def weights(self) -> Weights:
        return Weights(beyond=0, total=0)
