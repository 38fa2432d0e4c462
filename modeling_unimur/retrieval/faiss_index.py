"""An index in the process, kept in a folder: exact, or approximate by FAISS' own description of it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .faiss_part import FaissPart
from .filters import Condition
from .index_folder import IndexFolder
from .vector_index import KINDS, Hit, VectorIndex, require_same

# A graph of 32 links a vector; from about a million vectors on, where an exact search takes too long.
APPROXIMATE = "HNSW32"
_FORMAT = 1


class FaissIndex(VectorIndex):
    """Texts and pictures in one FAISS index each.

    ```python
    with FaissIndex(384, model="unimur-mini@3f2c1a") as index:
        index.add("image", ["cat"], vectors, [{"path": "cat.png", "licence": "cc0"}])
        index.search(query, top_k=5, kind="image", where={"licence": "cc0"})
        index.save("pictures.index")
    ```

    Args:
        width: of the vectors.
        model: name and revision of their model.
        factory: for FAISS' `index_factory`, by inner product: `"Flat"` is exact; `"HNSW32"`, `"IVF1024,PQ48"`,
            `"OPQ48_192,IVF4096,PQ48"`, `"IVF1024,PQ48,RFlat"` (ranks the best again by their full vectors). Inverted
            files are trained on the first vectors of each kind, or by `train`.
        ef_search: candidates that HNSW keeps in view: more finds more and takes longer.
        nprobe: lists that an inverted file visits, likewise.

    Raises:
        ValueError: a description that FAISS does not know.
    """

    def __init__(self, width: int, model: str, factory: str = "Flat", ef_search: int = 64, nprobe: int = 16):
        super().__init__(width, model)
        self.factory, self.ef_search, self.nprobe = factory, ef_search, nprobe
        self._parts = {kind: FaissPart(factory, width, ef_search, nprobe) for kind in KINDS}
        self._folder: IndexFolder | None = None
        self._lock = None
        self._version: str | None = None
        self.read_only = False

    # -- change and search ------------------------------------------------------------------------------------------
    @property
    def tombstones(self) -> int:
        """Removed candidates that still take memory."""
        return sum(part.tombstones for part in self._parts.values())

    def count(self, kind: str | None = None) -> int:
        return sum(len(self._parts[one]) for one in (KINDS if kind is None else (kind,)))

    def train(self, kind: str, vectors: np.ndarray) -> None:
        """Fits an inverted file of a kind to a sample `(sample, width)` of its vectors, before the first `add`.

        Raises:
            ValueError: wrong vectors, too few of them, or candidates that are there already.
        """
        if len(self._parts[kind]):
            raise ValueError(f"There are {kind}s in the index already: train before the first is added.")
        self._parts[kind].train(self._unit(vectors))

    def tune(self, ef_search: int | None = None, nprobe: int | None = None) -> None:
        """Changes how far an approximate search looks."""
        self.ef_search, self.nprobe = ef_search or self.ef_search, nprobe or self.nprobe
        for part in self._parts.values():
            part.ef_search, part.nprobe = self.ef_search, self.nprobe

    def _add(self, kind: str, ids: list[str], vectors: np.ndarray, payloads: list[str]) -> int:
        self._require_writer()
        return self._parts[kind].add(ids, vectors, payloads)

    def _remove(self, kind: str, ids: list[str]) -> None:
        self._require_writer()
        self._parts[kind].remove(ids)

    def _require_writer(self) -> None:
        if self.read_only:
            raise PermissionError("The index was opened for reading; open it without read_only to change it.")

    def _known(self, kind: str, ids: list[str]) -> set[str]:
        return {item for item in ids if item in self._parts[kind].rows}

    def _search(
        self, vectors: np.ndarray, top_k: int, kinds: Sequence[str], where: tuple[Condition, ...]
    ) -> list[list[Hit]]:
        parts = [(kind, self._parts[kind]) for kind in kinds if len(self._parts[kind])]
        found = [part.search(vectors, top_k, where) for _, part in parts]
        hits: list[list[Hit]] = [[] for _ in vectors]
        for (kind, part), (scores, rows) in zip(parts, found, strict=True):
            ids, payloads = part.ids, part.payloads
            for place, (values, numbers) in enumerate(zip(scores.tolist(), rows.tolist(), strict=True)):
                hits[place] += [
                    Hit(ids[row], value, kind, json.loads(payloads[row]))
                    for value, row in zip(values, numbers, strict=True)
                    if row >= 0
                ]
        if len(parts) > 1:
            hits = [sorted(row, key=lambda hit: -hit.score)[:top_k] for row in hits]
        return hits

    # -- one folder -------------------------------------------------------------------------------------------------
    def keep_in(self, folder: str | os.PathLike) -> None:
        """Reserves a folder without an index for this one, until `close`; `save` then needs no folder.

        Raises:
            ValueError: something lies there already.
            BlockingIOError: another writer has the folder.
        """
        place = IndexFolder(folder)
        lock = place.lock()
        if self._lock is not None or place.current() is not None:
            lock.release()
            raise ValueError(f"{folder} holds an index, or this index has its folder already.")
        self._folder, self._lock = place, lock

    def save(self, folder: str | os.PathLike | None = None, compact: bool = True) -> None:
        """Writes the index as the folder's next version, which readers see whole or not at all.

        Args:
            folder: where it was read from or saved last, by default.
            compact: frees tombstones first. An HNSW graph is then built again, which takes as long as building it
                did: pass False to save often and compact seldom.

        Raises:
            ValueError: no folder, one that holds something else, or a version that this index does not know of.
            BlockingIOError: another writer has the folder.
            PermissionError: the index was opened for reading.
        """
        target = self._folder if folder is None else IndexFolder(folder)
        if target is None:
            raise ValueError("Where to? Name a folder: save(folder).")
        same = self._folder is not None and target.path.resolve() == self._folder.path.resolve()
        if same:
            self._require_writer()
        lock = self._lock if same and self._lock is not None else target.lock()
        held = False
        try:
            # Nothing that somebody else wrote may vanish unseen.
            known = self._version if same else None
            if target.current() != known:
                what = "has changed since it was read" if same else "holds another index"
                raise ValueError(f"{target.path} {what}: open it by load or open_index and change that one.")
            if compact:
                for part in self._parts.values():
                    part.compact()
            version = target.write(self._write)
            held = self._folder is None or same
            if held:
                self._folder, self._lock, self._version = target, lock, version
        finally:
            if lock is not self._lock:
                lock.release()

    def _write(self, folder: Path) -> dict:
        for kind, part in self._parts.items():
            part.write(folder, kind)
        return {
            "format": _FORMAT,
            "width": self.width,
            "model": self.model,
            "factory": self.factory,
            "ef_search": self.ef_search,
            "nprobe": self.nprobe,
            "counts": {kind: len(part) for kind, part in self._parts.items()},
        }

    @classmethod
    def load(
        cls,
        folder: str | os.PathLike,
        width: int | None = None,
        model: str | None = None,
        read_only: bool = False,
    ) -> FaissIndex:
        """Reads the folder's current version.

        Args:
            folder: of `save`.
            width: of the caller's vectors, to be compared.
            model: of the caller's vectors, to be compared.
            read_only: leaves the folder to its writer; otherwise this index is the writer until `close`.

        Raises:
            FileNotFoundError: no index there.
            ValueError: a damaged one, a newer format, another width or model.
            BlockingIOError: there is another writer.
        """
        place = IndexFolder(folder)
        if place.current() is None:
            raise FileNotFoundError(f"{folder} holds no index: build one there first.")
        lock = None if read_only else place.lock()
        try:
            version, index = place.read(cls._read)
            require_same(folder, width, model, index.width, index.model)
        except BaseException:
            if lock is not None:
                lock.release()
            raise
        index._folder, index._lock, index._version, index.read_only = place, lock, version, read_only
        return index

    @classmethod
    def _read(cls, folder: Path, about: dict) -> FaissIndex:
        if about.get("format") != _FORMAT:
            raise ValueError(f"The index in {folder} has format {about.get('format')}; this version reads {_FORMAT}.")
        settings = {key: about[key] for key in ("factory", "ef_search", "nprobe")}
        index = cls(about["width"], about["model"], **settings)
        index._parts = {kind: FaissPart.read(folder, kind, width=about["width"], **settings) for kind in KINDS}
        if {kind: len(part) for kind, part in index._parts.items()} != about["counts"]:
            raise ValueError(f"The index in {folder} is damaged: its counts do not agree; build it again.")
        return index

    def refresh(self) -> bool:
        """Goes on with the version that a writer has landed since; for an index opened with `read_only`.

        Returns:
            Whether there was a newer one.
        """
        if not self.read_only or self._folder.current() == self._version:
            return False
        version, index = self._folder.read(self._read)
        require_same(self._folder.path, self.width, self.model, index.width, index.model)
        index.tune(self.ef_search, self.nprobe)
        self._parts, self._version, self.factory = index._parts, version, index.factory
        return True

    def close(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None


__all__ = ["APPROXIMATE", "FaissIndex"]
