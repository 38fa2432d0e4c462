"""BM25 over words, the lexical baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ...index.hybrid import WordIndex, split_words
from .base import Gallery, Messages, System, Weights, words_of_dialogue


class BM25(System):
    """BM25 (`index.hybrid.WordIndex`) of the whole dialogue's words against the candidate texts, and against the
    titles and tags of images.

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
        """An index of the candidates' words."""
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
        """Of the indexes that were made last."""
        return Weights(beyond=sum(self._bytes.values()), total=sum(self._bytes.values()))


__all__ = ["BM25"]
