"""The candidates of one kind in FAISS: an index, and by its row numbers their ids and payloads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from ..payload_filters import Condition, matches

try:
    import faiss
except ImportError as error:
    raise ImportError("An index in a folder is kept by FAISS: `pip install unimur[faiss]`.") from error

# Where fewer than this share of the candidates match a filter, a graph is not walked: their vectors are compared.
_FEW = 0.1
_SELECTORS_KEPT = 8


class FaissPart:
    """Rows of one FAISS index.

    In an exact index (`"Flat"`) a removed row's place goes to the last row. Elsewhere a removed row becomes a
    tombstone, which no search returns, until `compact`.

    Args:
        factory: FAISS' description of the index.
        width: of the vectors.
        ef_search: candidates that a graph (HNSW) keeps in view.
        nprobe: lists that an inverted file (IVF) visits.

    Raises:
        ValueError: a description that FAISS does not know or that cannot be filtered.
    """

    def __init__(self, factory: str, width: int, ef_search: int, nprobe: int):
        try:
            index = faiss.index_factory(width, factory, faiss.METRIC_INNER_PRODUCT)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise ValueError(f"FAISS makes no index {factory!r} of {width} numbers: {reason}") from error
        self.factory, self.ef_search, self.nprobe = factory, ef_search, nprobe
        self.ids: list[str | None] = []
        self.payloads: list[str | None] = []
        self.rows: dict[str, int] = {}
        self._take(index)

    def _take(self, index: faiss.Index) -> None:
        self.index = index  # owns the memory of all that follows
        self._before, inner = None, faiss.downcast_index(index)
        if isinstance(inner, faiss.IndexPreTransform):
            self._before, inner = inner, faiss.downcast_index(inner.index)
        base, self._stored = inner, None
        if isinstance(inner, faiss.IndexRefine):
            self._stored, base = faiss.downcast_index(inner.refine_index), faiss.downcast_index(inner.base_index)
        elif isinstance(inner, faiss.IndexHNSW):
            self._stored = faiss.downcast_index(inner.storage)
        if not isinstance(base, (faiss.IndexFlat, faiss.IndexHNSW, faiss.IndexIVF)):
            raise ValueError(f"{self.factory!r} is none of Flat, HNSW and IVF, with what may stand before and after.")
        self._inner = inner
        self.exact = isinstance(inner, faiss.IndexFlat) and self._before is None
        if self.exact:
            self._stored = inner
        self._numbered = isinstance(inner, faiss.IndexIVF)  # keeps row numbers, may have gaps
        self._selectors: dict[tuple[Condition, ...], tuple] = {}

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def tombstones(self) -> int:
        """Removed rows that still take memory."""
        return self.index.ntotal - len(self.rows)

    # -- change -----------------------------------------------------------------------------------------------------
    def train(self, vectors: np.ndarray) -> None:
        """Fits cells and codes to a sample of the vectors to come, `(sample, width)`.

        Raises:
            ValueError: too few for FAISS.
        """
        try:
            self.index.train(vectors)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise ValueError(
                f"{self.factory!r} cannot be trained on {len(vectors)} vectors ({reason}): call train(kind, sample) "
                "with more of them first, or choose fewer cells."
            ) from error

    def add(self, ids: list[str], vectors: np.ndarray, payloads: list[str]) -> int:
        """Stores candidates of distinct ids; returns how many of them were known."""
        if not self.index.is_trained:
            self.train(vectors)
        known = [place for place, item in enumerate(ids) if item in self.rows]
        fresh = range(len(ids))
        if known and self.exact:
            rows = [self.rows[ids[place]] for place in known]
            self._matrix()[rows] = vectors[known]
            for place, row in zip(known, rows, strict=True):
                self.payloads[row] = payloads[place]
            fresh = [place for place, item in enumerate(ids) if item not in self.rows]
        if len(fresh):
            first = len(self.ids)
            new = vectors if len(fresh) == len(ids) else vectors[fresh]
            if self._numbered:
                self.index.add_with_ids(new, np.arange(first, first + len(fresh)))
            else:
                self.index.add(new)
            for place in known if not self.exact else ():
                self._bury(ids[place])
            for row, place in enumerate(fresh, first):
                self.ids.append(ids[place])
                self.payloads.append(payloads[place])
                self.rows[ids[place]] = row
        self._selectors.clear()
        return len(known)

    def _matrix(self) -> np.ndarray:
        """The vectors of an exact index, in place."""
        total = self._inner.ntotal
        return faiss.rev_swig_ptr(self._inner.get_xb(), total * self._inner.d).reshape(total, self._inner.d)

    def _bury(self, item: str) -> None:
        row = self.rows.pop(item)
        self.ids[row] = self.payloads[row] = None

    def remove(self, ids: list[str]) -> None:
        """Removes candidates that are there."""
        self._selectors.clear()
        if not self.exact:
            for item in ids:
                self._bury(item)
            return
        matrix, total = self._matrix(), len(self.ids)
        for item in ids:
            row, last = self.rows.pop(item), len(self.ids) - 1
            moved, payload = self.ids.pop(), self.payloads.pop()
            if row != last:
                matrix[row] = matrix[last]
                self.ids[row], self.payloads[row], self.rows[moved] = moved, payload, row
        self._inner.remove_ids(faiss.IDSelectorRange(len(self.ids), total))

    def compact(self) -> None:
        """Frees the tombstones; a graph is built again, which takes as long as building it did."""
        if not self.tombstones:
            return
        self._selectors.clear()
        if self._numbered:
            listed = np.ones(len(self.ids), bool)
            listed[list(self.rows.values())] = False
            self.index.remove_ids(faiss.IDSelectorBatch(np.flatnonzero(listed)))
            return
        alive = np.fromiter((row for row, item in enumerate(self.ids) if item is not None), np.int64)
        if len(alive):
            vectors = self._inner.reconstruct_batch(alive)
        self._inner.reset()
        if len(alive):
            self._inner.add(vectors)
        self.index.ntotal = self._inner.ntotal
        self.ids = [self.ids[row] for row in alive]
        self.payloads = [self.payloads[row] for row in alive]
        self.rows = {item: row for row, item in enumerate(self.ids)}

    # -- search -----------------------------------------------------------------------------------------------------
    def search(self, vectors: np.ndarray, top_k: int, where: tuple[Condition, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Scores and rows, both `(queries, at most top_k)`, best first; row -1 where there is no more."""
        top_k = min(top_k, len(self.rows))
        if not where and not self.tombstones:
            selector, count = None, len(self.rows)
        else:
            selector, count = self._selector(where)
        if not min(top_k, count):
            return np.empty((len(vectors), 0), np.float32), np.empty((len(vectors), 0), np.int64)
        if self._before is not None:
            for place in range(self._before.chain.size()):
                vectors = self._before.chain.at(place).apply(vectors)
        few = count < _FEW * len(self.rows)
        if self.exact or (few and self._stored is not None):
            parameters = None if selector is None else faiss.SearchParameters(sel=selector)
            return self._stored.search(vectors, min(top_k, count), params=parameters)
        return self._inner.search(vectors, min(top_k, count), params=self._parameters(self._inner, selector, few))

    def _parameters(self, index: faiss.Index, selector: faiss.IDSelector | None, few: bool):
        if isinstance(index, faiss.IndexRefine):
            base = self._parameters(faiss.downcast_index(index.base_index), selector, few)
            return faiss.IndexRefineSearchParameters(k_factor=10, base_index_params=base)
        if isinstance(index, faiss.IndexIVF):
            return faiss.SearchParametersIVF(sel=selector, nprobe=index.nlist if few else self.nprobe)
        if isinstance(index, faiss.IndexHNSW):
            return faiss.SearchParametersHNSW(sel=selector, efSearch=self.ef_search)
        return faiss.SearchParameters(sel=selector)

    def _selector(self, where: tuple[Condition, ...]) -> tuple[faiss.IDSelector, int]:
        if where not in self._selectors:
            if where:
                texts = self.payloads
                chosen = [text is not None and matches(json.loads(text), where) for text in texts]
            else:
                chosen = [item is not None for item in self.ids]
            bits = np.packbits(np.array(chosen, bool), bitorder="little")
            while len(self._selectors) >= _SELECTORS_KEPT:
                self._selectors.pop(next(iter(self._selectors)))
            self._selectors[where] = (faiss.IDSelectorBitmap(bits), sum(chosen))
        return self._selectors[where]

    # -- files ------------------------------------------------------------------------------------------------------
    def write(self, folder: Path, name: str) -> None:
        """Writes `NAME.faiss` and `NAME.jsonl`, one line a row."""
        faiss.write_index(self.index, str(folder / f"{name}.faiss"))
        with open(folder / f"{name}.jsonl", "w", encoding="utf-8") as file:
            for item, payload in zip(self.ids, self.payloads, strict=True):
                # The payload is JSON already.
                file.write("null\n" if item is None else f"[{json.dumps(item, ensure_ascii=False)}, {payload}]\n")

    @classmethod
    def read(cls, folder: Path, name: str, factory: str, width: int, ef_search: int, nprobe: int) -> FaissPart:
        """Reads what `write` wrote.

        Raises:
            ValueError: when the two files do not agree.
        """
        part = cls(factory, width, ef_search, nprobe)
        part._take(faiss.read_index(str(folder / f"{name}.faiss")))
        with open(folder / f"{name}.jsonl", encoding="utf-8") as file:
            for row, line in enumerate(file):
                record = json.loads(line)
                item = record and record[0]
                part.ids.append(item)
                part.payloads.append(record and json.dumps(record[1], ensure_ascii=False))
                if item is not None:
                    part.rows[item] = row
        highest = len(part.ids) if part._numbered else part.index.ntotal
        if part.index.d != width or len(part.ids) != highest or part.tombstones < 0:
            raise ValueError(
                f"{name}.faiss and {name}.jsonl in {folder} do not belong together; build the index again."
            )
        return part


__all__ = ["FaissPart"]
