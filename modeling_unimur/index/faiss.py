"""An index in the process, kept in a folder: exact, or approximate by FAISS' own description of it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np

from ..memory_index import KINDS, Condition, Rows, check_vectors, locked, matches
from .base import EF_SEARCH, NPROBE, read_items, write_items
from .folder import FolderIndex
from .versions import IndexFolder, current_version

try:
    import faiss
except ImportError as error:
    raise ImportError("An index in a folder is kept by FAISS: `pip install unimur[faiss]`.") from error

# Where fewer than this share of the candidates match a filter, a graph is not walked: their vectors are compared.
_FEW = 0.1
# How many times the hits an index of codes brings, for the whole vectors to rank.
_REFINED = 10
_SELECTORS_KEPT = 8
# A byte a number (SQ8) spans the range of each number in a sample of so many vectors, otherwise twice that of all.
_RANGE_SAMPLE = 1000
# When an index is read, so many of its codes are decoded; they give vectors back whose lengths are only about 1.
_DECODED, _LONGEST = 2048, 1.6


class FaissIndex(FolderIndex):
    """Texts and images in one FAISS index each.

    ```python
    with FaissIndex(384, model="unimur-mini@3f2c1a") as index:
        index.add("image", ["cat"], vectors, [{"path": "cat.png", "licence": "cc0"}])
        index.search(query, top_k=5, kind="image", where={"licence": "cc0"})
        index.save("images.index")
    ```

    Args:
        width: of the vectors.
        model: name and revision of their model.
        factory: for FAISS' `index_factory`, by inner product: `"Flat"` is exact; `"SQ8"` (a byte a number),
            `"HNSW32"`, `"IVF1024,PQ48"`, `"OPQ48_192,IVF4096,PQ48"`, `"IVF1024,PQ48,RFlat"` (ranks the best again by
            their full vectors). Codes and inverted files are trained on the first vectors of each kind, or by `train`.
        ef_search: candidates that HNSW keeps in view: more finds more and takes longer.
        nprobe: lists that an inverted file visits, likewise.

    Raises:
        ValueError: a description that FAISS does not know.
    """

    holds_folder = True
    settings, tunes = ("factory", "ef_search", "nprobe"), ("ef_search", "nprobe")

    def __init__(
        self, width: int, model: str, factory: str = "Flat", ef_search: int = EF_SEARCH, nprobe: int = NPROBE
    ):
        super().__init__(width, model)
        self.factory, self.ef_search, self.nprobe = factory, ef_search, nprobe
        self.parts = {kind: FaissPart(factory, width, ef_search, nprobe) for kind in KINDS}

    # -- change and search ------------------------------------------------------------------------------------------
    @property
    @locked
    def tombstones(self) -> int:
        """Removed candidates that still take memory."""
        return sum(part.tombstones for part in self.parts.values())

    @locked
    def train(self, kind: str, vectors: np.ndarray) -> None:
        """Fits an inverted file of a kind to a sample `(sample, width)` of its vectors, before the first `add`.

        Raises:
            ValueError: wrong vectors, too few of them, or candidates that are there already.
        """
        if len(self.parts[kind]):
            raise ValueError(f"There are {kind}s in the index already: train before the first is added.")
        self.parts[kind].train(self._unit(vectors))

    @locked
    def needs_training(self, kind: str) -> bool:
        """Whether an inverted file of a kind is yet to be fitted to vectors."""
        return not self.parts[kind].index.is_trained

    @locked
    def tune(self, ef_search: int | None = None, nprobe: int | None = None) -> None:
        """Changes how far an approximate search looks."""
        self.ef_search, self.nprobe = ef_search or self.ef_search, nprobe or self.nprobe
        for part in self.parts.values():
            part.ef_search, part.nprobe = self.ef_search, self.nprobe

    # -- one folder -------------------------------------------------------------------------------------------------
    @classmethod
    def load(
        cls, folder: str | os.PathLike, width: int | None = None, model: str | None = None, read_only: bool = False
    ) -> FaissIndex:
        """Reads the folder's current version, as `FolderIndex.load` does, and keeps other writers out until `close`,
        unless it is opened for reading. Raises BlockingIOError where there is another writer."""
        lock = None if read_only or current_version(folder) is None else IndexFolder(folder).lock()
        try:
            index = super().load(folder, width, model, read_only)
        except BaseException:
            if lock is not None:
                lock.release()
            raise
        index.lock = lock
        return index

    @locked
    def close(self) -> None:
        if self.lock is not None:
            self.lock.release()
            self.lock = None

    def compact(self) -> None:
        """Frees what removed candidates still take."""
        if self.tombstones:
            self.forget_words()
        for part in self.parts.values():
            part.compact()


class FaissPart(Rows):
    """Rows of one FAISS index. In an exact index (`"Flat"`) a removed row's place goes to the last row; elsewhere a
    removed row becomes a tombstone, which no search returns, until `compact`.

    Raises:
        ValueError: a description (`factory`) that FAISS does not know or that cannot be filtered.
    """

    def __init__(self, factory: str, width: int, ef_search: int, nprobe: int):
        try:
            index = faiss.index_factory(width, factory, faiss.METRIC_INNER_PRODUCT)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise ValueError(f"FAISS makes no index {factory!r} of {width} numbers: {reason}") from error
        super().__init__()
        self.factory, self.ef_search, self.nprobe = factory, ef_search, nprobe
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
            if isinstance(self._stored, faiss.IndexPQ):  # which takes no selector
                self._stored = None
        if not isinstance(base, (faiss.IndexFlat, faiss.IndexScalarQuantizer, faiss.IndexHNSW, faiss.IndexIVF)):
            raise ValueError(
                f"{self.factory!r} is none of Flat, SQ8, HNSW and IVF, with what may stand before and after."
            )
        self._inner = inner
        self.exact = isinstance(inner, faiss.IndexFlat) and self._before is None
        if self.exact:
            self._stored = inner
        self._numbered = isinstance(inner, faiss.IndexIVF)  # keeps row numbers, may have gaps
        self._selectors: dict[str, tuple] = {}
        self._places: np.ndarray | None = None

    @property
    def tombstones(self) -> int:
        """Removed rows that still take memory."""
        return self.index.ntotal - len(self.rows)

    # -- change -----------------------------------------------------------------------------------------------------
    def _changed(self) -> None:
        self._selectors.clear()
        self._places = None

    def train(self, vectors: np.ndarray) -> None:
        """Fits cells and codes to a sample of the vectors to come, `(sample, width)`.

        Raises:
            ValueError: too few for FAISS.
        """
        codes = self._inner if self._stored is None else self._stored
        if isinstance(codes, faiss.IndexScalarQuantizer) and len(vectors) < _RANGE_SAMPLE:
            most = np.full((1, self.index.d), min(1, 2 * np.abs(vectors).max(initial=0)), np.float32)
            vectors = np.concatenate([vectors, most, -most])  # a few do not show the range of each number
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
            self.matrix()[rows] = vectors[known]
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
        self._changed()
        return len(known)

    def matrix(self) -> np.ndarray:
        """The vectors of an exact index, in place."""
        total = self._inner.ntotal
        return faiss.rev_swig_ptr(self._inner.get_xb(), total * self._inner.d).reshape(total, self._inner.d)

    def _bury(self, item: str) -> None:
        row = self.rows.pop(item)
        self.ids[row] = self.payloads[row] = None

    def remove(self, ids: list[str]) -> None:
        """Removes candidates that are there."""
        self._changed()
        if not self.exact:
            for item in ids:
                self._bury(item)
            return
        total = len(self.ids)
        self.move_last(ids, self.matrix())
        self._inner.remove_ids(faiss.IDSelectorRange(len(self.ids), total))

    def compact(self) -> None:
        """Frees the tombstones; a graph is built again, which takes as long as building it did."""
        if not self.tombstones:
            return
        self._changed()
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
        if not where and not self.tombstones:
            selector, count = None, len(self.rows)
        else:
            selector, count = self._selector(where)
        top_k = min(top_k, count)
        if not top_k:
            return np.empty((len(vectors), 0), np.float32), np.empty((len(vectors), 0), np.int64)
        if self._before is not None:
            for place in range(self._before.chain.size()):
                vectors = self._before.chain.at(place).apply(vectors)
        # Of all rows: a walk goes through the tombstones too.
        share = count / self.index.ntotal
        if self.exact or share < _FEW:
            return self._look_at_all(vectors, top_k, selector)
        scores, rows = self._inner.search(
            vectors, top_k, params=self._parameters(self._inner, selector, self.nprobe, top_k, share)
        )
        short = np.flatnonzero((rows < 0).any(axis=1))
        if len(short):  # the walk ended, or its cells held too few
            scores[short], rows[short] = self._look_at_all(vectors[short], top_k, selector)
        return scores, rows

    def _look_at_all(
        self, vectors: np.ndarray, top_k: int, selector: faiss.IDSelector | None
    ) -> tuple[np.ndarray, np.ndarray]:
        if self._stored is not None:
            parameters = None if selector is None else faiss.SearchParameters(sel=selector)
            return self._stored.search(vectors, top_k, params=parameters)
        nprobe = self._inner.nlist if self._numbered else 0
        parameters = self._parameters(self._inner, selector, nprobe, top_k, 1 / self.index.ntotal)
        return self._inner.search(vectors, top_k, params=parameters)

    def _parameters(
        self, index: faiss.Index, selector: faiss.IDSelector | None, nprobe: int, top_k: int, share: float
    ) -> faiss.SearchParameters:
        if isinstance(index, faiss.IndexRefine):
            inner = faiss.downcast_index(index.base_index)
            base = self._parameters(inner, selector, nprobe, _REFINED * top_k, share)
            return faiss.IndexRefineSearchParameters(k_factor=_REFINED, base_index_params=base)
        if isinstance(index, faiss.IndexIVF):
            return faiss.SearchParametersIVF(sel=selector, nprobe=nprobe)
        if isinstance(index, faiss.IndexHNSW):
            # What the selector refuses takes a place in view as well.
            wanted = int(np.ceil(max(self.ef_search, top_k) / share))
            return faiss.SearchParametersHNSW(sel=selector, efSearch=wanted if share < 1 else self.ef_search)
        return faiss.SearchParameters(sel=selector)

    def _selector(self, where: tuple[Condition, ...]) -> tuple[faiss.IDSelector, int]:
        name = repr(where)  # in which 1, 1.0 and True differ
        if name not in self._selectors:
            if where:
                texts = self.payloads
                chosen = [text is not None and matches(json.loads(text), where) for text in texts]
            else:
                chosen = [item is not None for item in self.ids]
            bits = np.packbits(np.array(chosen, bool), bitorder="little")
            while len(self._selectors) >= _SELECTORS_KEPT:
                self._selectors.pop(next(iter(self._selectors)))
            self._selectors[name] = (faiss.IDSelectorBitmap(bits), sum(chosen))
        return self._selectors[name]

    # -- vectors ----------------------------------------------------------------------------------------------------
    def vectors(self, rows: np.ndarray) -> np.ndarray:
        """The vectors `(rows, width)` of rows by their numbers; of codes, what they decode to.

        Raises:
            ValueError: what stands before the codes cannot be undone.
        """
        if not len(rows):
            return np.empty((0, self.index.d), np.float32)
        found = self._decoded(rows) if self._numbered else self._inner.reconstruct_batch(rows)
        if self._before is not None:
            chain = self._before.chain
            try:
                for place in reversed(range(chain.size())):
                    found = faiss.downcast_VectorTransform(chain.at(place)).reverse_transform(found)
            except RuntimeError as error:
                raise ValueError(
                    f"{self.factory!r} gives no vectors back: coherent replies and hybrid search need an index "
                    "without whitening."
                ) from error
        return found

    def _decoded(self, rows: np.ndarray) -> np.ndarray:
        """Vectors of an inverted file, which finds them by cell and place in it."""
        inner, lists = self._inner, self._inner.invlists
        if self._places is None:
            self._places = np.full((len(self.ids), 2), -1, np.int64)
            for cell in range(inner.nlist):
                if size := lists.list_size(cell):
                    numbers = faiss.rev_swig_ptr(lists.get_ids(cell), size)
                    self._places[numbers, 0], self._places[numbers, 1] = cell, np.arange(size)
        if (self._places[rows] < 0).any():  # FAISS would read any memory
            raise ValueError("rows that are in no cell")
        found = np.empty((len(rows), inner.d), np.float32)
        for vector, (cell, place) in zip(found, self._places[rows].tolist(), strict=True):
            inner.reconstruct_from_offset(cell, place, faiss.swig_ptr(vector))
        return found

    # -- files ------------------------------------------------------------------------------------------------------
    def write(self, folder: Path, name: str) -> None:
        """Writes `NAME.faiss` and `NAME.jsonl`, one line a row."""
        # FAISS' own writer does not notice when its last bytes do not reach the disk; Python's does.
        with open(folder / f"{name}.faiss", "xb") as file:
            faiss.write_index(self.index, faiss.PyCallbackIOWriter(file.write))
        write_items(folder / f"{name}.jsonl", self.ids, self.payloads)

    def read(self, folder: Path, name: str) -> None:
        """Reads what `write` wrote.

        Raises:
            ValueError: when the two files do not agree, or hold what no `add` can have stored.
        """
        made = self.index
        self._take(faiss.read_index(str(folder / f"{name}.faiss")))
        if _kinds(made) != _kinds(self.index):
            raise ValueError(f"{name}.faiss is no {self.factory!r} of {made.d} numbers by inner product")
        self.ids, self.payloads, self.rows = read_items(folder / f"{name}.jsonl")
        highest = len(self.ids) if self._numbered else self.index.ntotal
        if len(self.ids) != highest or self.tombstones < 0:
            raise ValueError(f"{name}.faiss and {name}.jsonl do not belong together")
        self._check_vectors()

    def _check_vectors(self) -> None:
        """Refuses vectors that no `add` can have stored: each of an exact index, a sample of the others."""
        if self.exact:
            if self.ids:
                check_vectors(self.matrix(), self._inner.d)
            return
        alive = np.array([row for row, item in enumerate(self.ids[:_DECODED]) if item is not None], np.int64)
        lengths = np.linalg.norm(self.vectors(alive), axis=1)
        if not (lengths <= _LONGEST).all():
            raise ValueError(f"its codes give vectors of length {lengths.max():.4g}")


def _kinds(index: faiss.Index) -> list:
    """What an index is made of, as far as its factory's description says."""
    index = faiss.downcast_index(index)
    parts = [getattr(index, name, None) for name in ("base_index", "refine_index", "index", "storage")]
    inner = [kind for part in parts if part is not None for kind in _kinds(part)]
    return [type(index).__name__.removesuffix("IP"), index.d, index.metric_type, *inner]
