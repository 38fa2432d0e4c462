"""BM25 over words, the lexical baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .base import Gallery, Messages, System, Weights, words_of_dialogue

# Words of one character too, unlike the default of bm25s: "size 8".
_WORD = r"(?u)\b\w+\b"


class BM25(System):
    """BM25 (Lucene's form, k1 1.5, b 0.75, the defaults of bm25s) of the whole dialogue's words against the candidate
    texts, and against the titles and tags of images. English stop words are left out.

    Raises:
        ImportError: without `bm25s`.
    """

    name = "BM25"
    has_vectors = False
    sees = "the words of the whole dialogue; of images their titles and tags alone"

    def __init__(self):
        try:
            import bm25s
        except ImportError as error:
            raise ImportError("BM25 needs bm25s: `pip install unimur[compare]`.") from error
        self._bm25s = bm25s
        self._bytes: dict[str, int] = {}

    def _words(self, texts: Sequence[str]) -> list[list[str]]:
        return self._bm25s.tokenize(
            list(texts), token_pattern=_WORD, stopwords="en", return_ids=False, show_progress=False
        )

    def encode_candidates(self, gallery: Gallery, kind: str) -> tuple[Any, int]:
        """An index of the candidates' words, None where nothing can match, and how many there are."""
        texts = gallery.texts if kind == "text" else gallery.image_words
        words = self._words(texts) if len(texts) else []
        index, self._bytes[kind] = None, 0
        if any(words):
            index = self._bm25s.BM25()
            index.index(words, show_progress=False)
            arrays = [array for array in index.scores.values() if isinstance(array, np.ndarray)]
            self._bytes[kind] = sum(array.nbytes for array in arrays)
        return index, len(texts)

    def encode_queries(self, dialogues: Sequence[Messages]) -> list[list[str]]:
        return self._words([words_of_dialogue(messages) for messages in dialogues])

    def scores(self, queries: list[list[str]], candidates: Mapping[str, Any], kind: str) -> np.ndarray:
        index, count = candidates[kind]
        found = np.zeros((len(queries), count), dtype=np.float32)
        for row, words in enumerate(queries):
            known = [word for word in words if index is not None and word in index.vocab_dict]
            if known:
                found[row] = index.get_scores(known)
        return found

    def weights(self) -> Weights:
        """Of the indexes that were made last."""
        return Weights(beyond=sum(self._bytes.values()), total=sum(self._bytes.values()))


__all__ = ["BM25"]
