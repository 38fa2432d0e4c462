"""Small vectors in memory, searched without FAISS: a byte or a bit a number, and rescoring.

A stored row is `width` bytes (`encode_int8`), one file a kind. `"int8"` holds the rows in memory. `"binary"` holds
their signs, `width / 8` bytes a row, and maps the file of rows for rescoring; rows that were changed since the last
save are in memory.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from ..memory_index import KINDS, MEMORY, Condition, Rows, best_columns, locked, matches, require_positive
from .base import read_items, write_items
from .folder import FolderIndex
from .precision import BINARY, INT8

# So many times the hits are rescored by the rows of an index of signs. Real vectors need 8 for a recall of 0.98
# (benchmarks/index.py); sentence-transformers' examples have 4.
RESCORE_MULTIPLIER = 8
# So many times those are found by Hamming distance, for the query's own numbers times the signs to choose from.
_HAMMING_MULTIPLIER = 4
# Rows that are scored at a time: they stay in the processor's cache.
_INT8_BLOCK, _BIT_BLOCK = 4096, 65_536


def encode_int8(vectors: np.ndarray) -> np.ndarray:
    """Unit vectors `(rows, width)` as int8: the largest number of each row becomes 127 or -127."""
    scales = 127 / np.abs(vectors).max(axis=1, keepdims=True)
    return np.rint(vectors * scales).astype(np.int8)


def decode_int8(codes: np.ndarray) -> np.ndarray:
    """The unit vectors `(rows, width)` of codes, float32."""
    return codes * inverse_lengths(codes)[:, None]


def inverse_lengths(codes: np.ndarray) -> np.ndarray:
    """What makes rows of codes `(rows, width)` unit vectors, `(rows,)`, float32."""
    squares = np.empty(len(codes), np.float32)
    for start in range(0, len(codes), _INT8_BLOCK):
        block = codes[start : start + _INT8_BLOCK].astype(np.float32)
        squares[start : start + _INT8_BLOCK] = np.einsum("ij,ij->i", block, block)
    if not squares.all():
        raise ValueError("a vector is zero")
    return 1 / np.sqrt(squares)


def pack_signs(vectors: np.ndarray) -> np.ndarray:
    """Bits of vectors or codes `(rows, width)` as 64-bit words `(words, rows)`: 1 where a number is above 0, as
    `quantize_embeddings(..., "ubinary")` of sentence-transformers."""
    words = -(-vectors.shape[1] // 64)
    packed = np.empty((words, len(vectors)), np.uint64)
    for start in range(0, len(vectors), _BIT_BLOCK):
        block = np.packbits(vectors[start : start + _BIT_BLOCK] > 0, axis=1)
        padded = np.pad(block, ((0, 0), (0, 8 * words - block.shape[1])))
        packed[:, start : start + _BIT_BLOCK] = padded.view(np.uint64).T
    return packed


def unpack_signs(words: np.ndarray, width: int) -> np.ndarray:
    """1 and -1, `(rows, width)`, float32, of the words of `pack_signs`."""
    bits = np.unpackbits(np.ascontiguousarray(words.T).view(np.uint8), axis=1, count=width)
    return 2 * bits.astype(np.float32) - 1


def hamming_distances(words: np.ndarray, query: np.ndarray) -> np.ndarray:
    """In how many bits rows `(words, rows)` differ from a query `(words,)`; `(rows,)`, uint16."""
    found = np.zeros(words.shape[1], np.uint16)
    for start in range(0, words.shape[1], _BIT_BLOCK):
        part = found[start : start + _BIT_BLOCK]
        for row, own in zip(words[:, start : start + _BIT_BLOCK], query, strict=True):
            part += np.bitwise_count(row ^ own)
    return found


class QuantizedRows(Rows):
    """The candidates of one kind, as int8 codes; payloads are JSON. `binary` says whether signs are searched; the
    codes then rescore `rescore_multiplier` times the hits."""

    def __init__(self, width: int, binary: bool, rescore_multiplier: int):
        super().__init__()
        self.width, self.binary, self.rescore_multiplier = width, binary, rescore_multiplier
        self._lengths: np.ndarray | None = None
        self._signs: np.ndarray | None = None

    def matrix(self) -> np.ndarray:
        """The codes `(rows, width)`."""
        return super().matrix() if self.blocks else np.empty((0, self.width), np.int8)

    def add(self, ids: list[str], vectors: np.ndarray, payloads: list[str]) -> int:
        self._lengths = None
        before, known = len(self), super().add(ids, encode_int8(vectors), payloads)
        if self._signs is not None:  # those of new rows alone are made
            fresh = pack_signs(self.matrix()[before:]) if not known else None
            self._signs = None if fresh is None else np.concatenate([self._signs, fresh], axis=1)
        return known

    def remove(self, ids: list[str]) -> None:
        super().remove(ids)
        self._lengths = self._signs = None

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        """Vectors `(rows, width)` of rows by their numbers, as the codes decode."""
        return decode_int8(self.matrix()[rows])

    # -- search -----------------------------------------------------------------------------------------------------
    @property
    def lengths(self) -> np.ndarray:
        """Of the codes, as `inverse_lengths`."""
        if self._lengths is None:
            self._lengths = inverse_lengths(self.matrix())
        return self._lengths

    @property
    def signs(self) -> np.ndarray:
        """Of the codes, as `pack_signs`."""
        if self._signs is None:
            self._signs = pack_signs(self.matrix())
        return self._signs

    def search(self, vectors: np.ndarray, top_k: int, where: tuple[Condition, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Scores and rows, both `(queries, at most top_k)`, best first."""
        chosen = None
        if where:
            chosen = np.array([row for row in range(len(self)) if matches(self.payload(row), where)], np.int64)
        top_k = min(top_k, len(self) if chosen is None else len(chosen))
        if not top_k:
            return np.empty((len(vectors), 0), np.float32), np.empty((len(vectors), 0), np.int64)
        return (self._by_signs if self.binary else self._by_codes)(vectors, top_k, chosen)

    def _by_codes(self, queries: np.ndarray, top_k: int, chosen: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        codes, lengths = self.matrix(), self.lengths
        if chosen is not None:
            codes, lengths = codes[chosen], lengths[chosen]
        found, places = [], []
        for start in range(0, len(codes), _INT8_BLOCK):
            part = slice(start, start + _INT8_BLOCK)
            scores, best = best_columns((queries @ codes[part].astype(np.float32).T) * lengths[part], top_k)
            found.append(scores)
            places.append(best + start)
        scores, best = best_columns(np.concatenate(found, axis=1), top_k)
        rows = np.take_along_axis(np.concatenate(places, axis=1), best, axis=1)
        return scores, rows if chosen is None else chosen[rows]

    def _by_signs(self, queries: np.ndarray, top_k: int, chosen: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        signs = self.signs if chosen is None else self.signs[:, chosen]
        count = self.rescore_multiplier * top_k
        scores = np.empty((len(queries), top_k), np.float32)
        rows = np.empty((len(queries), top_k), np.int64)
        for place, (query, own) in enumerate(zip(queries, pack_signs(queries).T, strict=True)):
            near = _smallest(hamming_distances(signs, own), _HAMMING_MULTIPLIER * count)
            near = near[_smallest(-(unpack_signs(signs[:, near], self.width) @ query), count)]
            near = np.sort(near if chosen is None else chosen[near])  # as they lie in the file
            exact = self.vectors(near) @ query
            best = np.argsort(-exact, kind="stable")[:top_k]
            scores[place], rows[place] = exact[best], near[best]
        return scores, rows

    # -- files ------------------------------------------------------------------------------------------------------
    def write(self, folder: Path, name: str) -> None:
        """Writes `NAME.npy` and `NAME.jsonl`."""
        codes = np.ascontiguousarray(self.matrix())
        with open(folder / f"{name}.npy", "xb") as file:  # `np.save` does not notice when its last bytes are lost
            np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(codes))
            file.write(codes.data)
        write_items(folder / f"{name}.jsonl", self.ids, self.payloads)

    def read(self, folder: Path, name: str) -> None:
        """Reads what `write` wrote.

        Raises:
            ValueError: files that do not agree, or that no `write` can have written.
        """
        self.ids, self.payloads, self.rows = read_items(folder / f"{name}.jsonl")
        self.open(folder, name)
        codes = self.matrix()
        if codes.dtype != np.int8 or codes.shape != (len(self.rows), self.width):
            raise ValueError(f"{name}.npy holds {codes.dtype} of shape {codes.shape}, not {len(self.rows)} rows")
        lengths = inverse_lengths(codes)  # refuses zeros
        self._lengths, self._signs = (None, pack_signs(codes)) if self.binary else (lengths, None)

    def open(self, folder: Path, name: str) -> None:
        """Takes the codes of a file, mapped where signs are searched; changes of mapped ones stay in memory."""
        self.blocks = [np.load(folder / f"{name}.npy", mmap_mode="c" if self.binary else None, allow_pickle=False)]


def _smallest(values: np.ndarray, count: int) -> np.ndarray:
    """Places of the `count` smallest values, in no order."""
    return np.argpartition(values, count)[:count] if count < len(values) else np.arange(len(values))


class QuantizedIndex(FolderIndex):
    """An index in memory of small vectors.

    Args:
        width: of the vectors.
        model: name and revision of their model.
        precision: `"int8"`: a byte a number, each scored. `"binary"`: a bit a number, searched by Hamming distance;
            the best are ranked by their signs and then by their int8 codes, which are mapped from the folder's file.
        rescore_multiplier: of `"binary"`: so many times the hits are ranked by their codes.

    Raises:
        ValueError: another precision.
    """

    settings, tunes = ("precision", "rescore_multiplier"), ("rescore_multiplier",)

    def __init__(self, width: int, model: str, precision: str, rescore_multiplier: int = RESCORE_MULTIPLIER):
        super().__init__(width, model)
        if precision not in (INT8, BINARY):
            raise ValueError(f"precision must be {INT8!r} or {BINARY!r}, got {precision!r:.60}.")
        self.precision, self.factory = precision, f"{MEMORY},{precision}"
        self.parts = {kind: QuantizedRows(width, precision == BINARY, rescore_multiplier) for kind in KINDS}
        self.tune(rescore_multiplier)

    @locked
    def tune(self, rescore_multiplier: int) -> None:
        """Changes how many times the hits are rescored."""
        require_positive("rescore_multiplier", rescore_multiplier)
        self.rescore_multiplier = rescore_multiplier
        for part in self.parts.values():
            part.rescore_multiplier = rescore_multiplier

    @locked
    def save(self, folder: str | os.PathLike | None = None, compact: bool = True, replace: bool = False) -> None:
        """Writes the folder's next version, as `FolderIndex.save` does; an index of signs then maps its codes."""
        before = self.version
        super().save(folder, compact, replace)
        if self.version != before:
            for kind, part in self.parts.items():
                part.open(Path(self.home, self.version), kind)
