"""An index in the process, kept in a folder: exact, or approximate by FAISS' own description of it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..memory_index import MEMORY
from ..payload_filters import Condition
from ..saved_index import SavedIndex
from ..vector_index import KINDS, Hit, locked
from .faiss_part import FaissPart
from .search_effort import EF_SEARCH, NPROBE

# A graph of 32 links a vector; from about a million vectors on, where an exact search takes too long.
APPROXIMATE = "HNSW32"


class FaissIndex(SavedIndex):
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

    def __init__(
        self, width: int, model: str, factory: str = "Flat", ef_search: int = EF_SEARCH, nprobe: int = NPROBE
    ):
        super().__init__(width, model)
        self.factory, self.ef_search, self.nprobe = factory, ef_search, nprobe
        self._parts = {kind: FaissPart(factory, width, ef_search, nprobe) for kind in KINDS}

    # -- change and search ------------------------------------------------------------------------------------------
    @property
    @locked
    def tombstones(self) -> int:
        """Removed candidates that still take memory."""
        return sum(part.tombstones for part in self._parts.values())

    @locked
    def count(self, kind: str | None = None) -> int:
        return sum(len(self._parts[one]) for one in (KINDS if kind is None else (kind,)))

    @locked
    def train(self, kind: str, vectors: np.ndarray) -> None:
        """Fits an inverted file of a kind to a sample `(sample, width)` of its vectors, before the first `add`.

        Raises:
            ValueError: wrong vectors, too few of them, or candidates that are there already.
        """
        if len(self._parts[kind]):
            raise ValueError(f"There are {kind}s in the index already: train before the first is added.")
        self._parts[kind].train(self._unit(vectors))

    @locked
    def needs_training(self, kind: str) -> bool:
        """Whether an inverted file of a kind is yet to be fitted to vectors."""
        return not self._parts[kind].index.is_trained

    @locked
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

    def _known(self, kind: str, ids: list[str]) -> set[str]:
        return {item for item in ids if item in self._parts[kind].rows}

    def _search(
        self,
        vectors: np.ndarray,
        top_k: int,
        kinds: Sequence[str],
        where: tuple[Condition, ...],
        with_vectors: bool,
    ) -> list[list[Hit]]:
        parts = [(kind, self._parts[kind]) for kind in kinds if len(self._parts[kind])]
        found = [part.search(vectors, top_k, where) for _, part in parts]
        hits: list[list[Hit]] = [[] for _ in vectors]
        for (kind, part), (scores, rows) in zip(parts, found, strict=True):
            ids, payloads = part.ids, part.payloads
            stored = iter(part.vectors(rows[rows >= 0])) if with_vectors else itertools.repeat(None)
            for place, (values, numbers) in enumerate(zip(scores.tolist(), rows.tolist(), strict=True)):
                hits[place] += [
                    Hit(ids[row], value, kind, json.loads(payloads[row]), vector=next(stored))
                    for value, row in zip(values, numbers, strict=True)
                    if row >= 0
                ]
        if len(parts) > 1:
            hits = [sorted(row, key=lambda hit: -hit.score)[:top_k] for row in hits]
        return hits

    # -- one folder -------------------------------------------------------------------------------------------------
    def _compact(self) -> None:
        for part in self._parts.values():
            part.compact()

    def _write(self, folder: Path) -> dict:
        for kind, part in self._parts.items():
            part.write(folder, kind)
        return {
            "width": self.width,
            "model": self.model,
            "factory": self.factory,
            "ef_search": self.ef_search,
            "nprobe": self.nprobe,
            "counts": {kind: len(part) for kind, part in self._parts.items()},
        }

    @classmethod
    def _require_own(cls, folder: Path, about: dict) -> None:
        if about.get("factory") == MEMORY:
            raise ValueError(f"The index in {folder} is searched without FAISS: open it by `open_index`.")

    @classmethod
    def _read(cls, folder: Path, about: dict) -> FaissIndex:
        settings = {key: about[key] for key in ("factory", "ef_search", "nprobe")}
        index = cls(about["width"], about["model"], **settings)
        index._parts = {kind: FaissPart.read(folder, kind, width=about["width"], **settings) for kind in KINDS}
        return index

    def _take(self, other: FaissIndex) -> None:
        other.tune(self.ef_search, self.nprobe)
        self._parts, self.factory = other._parts, other.factory


__all__ = ["APPROXIMATE", "FaissIndex"]
