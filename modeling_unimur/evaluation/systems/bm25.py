"""BM25 over words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .base import Gallery, Messages, RetrievalSystem, Weights, words_of_dialogue

# Words of one character too, unlike the default of bm25s: "size 8".
_WORD = r"(?u)\b\w+\b"


class BM25(RetrievalSystem):
    """BM25 (Lucene's form, k1 1.5, b 0.75, the defaults of bm25s) of the whole dialogue's words against the candidate
    texts, and against the titles and tags of pictures. English stop words are left out.

    Raises:
        ImportError: without `bm25s`.
    """

    name = "BM25"
    sees = "the words of the whole dialogue; of images their titles and tags alone"

    def __init__(self):
        try:
            import bm25s
        except ImportError as error:
            raise ImportError("BM25 needs bm25s: `pip install unimur[compare]`.") from error
        self._bm25s = bm25s
        self._indexes: dict = {}

    def _words(self, texts: Sequence[str]) -> list[list[str]]:
        return self._bm25s.tokenize(
            list(texts), token_pattern=_WORD, stopwords="en", return_ids=False, show_progress=False
        )

    def index(self, gallery: Gallery) -> None:
        self._indexes = {}
        for kind, texts in (("text", gallery.texts), ("image", gallery.image_words)):
            words = self._words(texts) if len(texts) else []
            found = None
            if any(words):  # else nothing can match
                found = self._bm25s.BM25()
                found.index(words, show_progress=False)
            self._indexes[kind] = (found, len(texts))

    def encode_queries(self, dialogues: Sequence[Messages]) -> list[list[str]]:
        return self._words([words_of_dialogue(messages) for messages in dialogues])

    def scores(self, queries: list[list[str]], kind: str) -> np.ndarray:
        index, count = self._indexes[kind]
        found = np.zeros((len(queries), count), dtype=np.float32)
        for row, words in enumerate(queries):
            known = [word for word in words if index is not None and word in index.vocab_dict]
            if known:
                found[row] = index.get_scores(known)
        return found

    def weights(self) -> Weights:
        arrays = [
            array.nbytes
            for index, _ in self._indexes.values()
            if index is not None
            for array in index.scores.values()
            if isinstance(array, np.ndarray)
        ]
        return Weights(beyond=sum(arrays), total=sum(arrays))


__all__ = ["BM25"]
