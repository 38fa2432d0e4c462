"""An exact index of texts and pictures in memory, which needs nothing but numpy and may be kept in a folder."""

from __future__ import annotations

import json
import warnings
from bisect import bisect
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from .payload_filters import Condition, matches
from .saved_index import SavedIndex
from .vector_index import KINDS, Hit, check_vectors, checked_id, locked, plain_payload, plain_value, require_dict

# What an index in a folder calls this kind, beside FAISS' descriptions of its own.
MEMORY = "memory"
# The field of a payload that may hold an object.
_OBJECT = "image"


class RetrievalIndex(SavedIndex):
    """Unit vectors of candidates with their ids and payloads, searched exactly by cosine.

    The field `image` of a payload may hold an object, such as an image without a file; it is kept in memory and not
    saved.

    Args:
        width (`int`, *optional*): of the vectors; that of the first ones by default.
        model (`str`, *optional*): name and revision of their model; without it nobody is refused.
    """

    keeps_objects, holds_folder, factory = True, False, MEMORY

    def __init__(self, width: int | None = None, model: str | None = None):
        self.width, self.model = width, model
        self._begin()
        self._ids: dict[str, list[str]] = {kind: [] for kind in KINDS}  # by row
        self._payloads: dict[str, list[dict]] = {kind: [] for kind in KINDS}  # by row
        self._places: dict[str, dict[str, int]] = {kind: {} for kind in KINDS}  # id -> row
        self._rows: dict[str, list[np.ndarray]] = {kind: [] for kind in KINDS}  # not yet joined

    @locked
    def count(self, kind: str | None = None) -> int:
        return sum(len(self._ids[one]) for one in (KINDS if kind is None else (kind,)))

    def _known(self, kind: str, ids: list[str]) -> set[str]:
        return {item for item in ids if item in self._places[kind]}

    def _payload(self, item: str, payload: dict | None) -> dict:
        return plain_payload(item, payload, but=(_OBJECT,))

    def _matrix(self, kind: str) -> np.ndarray:
        if len(self._rows[kind]) > 1:
            self._rows[kind] = [np.concatenate(self._rows[kind])]
        return self._rows[kind][0] if self._rows[kind] else np.empty((0, self.width or 0), np.float32)

    def _add(self, kind: str, ids: list[str], vectors: np.ndarray, payloads: list[dict]) -> int:
        self._require_writer()
        self.width = vectors.shape[1]
        places, fresh = self._places[kind], []
        for row, item in enumerate(ids):
            if item in places:
                self._matrix(kind)[places[item]] = vectors[row]
                self._payloads[kind][places[item]] = payloads[row]
            else:
                fresh.append(row)
        for place, row in enumerate(fresh, len(self._ids[kind])):
            places[ids[row]] = place
            self._ids[kind].append(ids[row])
            self._payloads[kind].append(payloads[row])
        if fresh:
            self._rows[kind].append(vectors[fresh])  # a copy
        return len(ids) - len(fresh)

    def _remove(self, kind: str, ids: list[str]) -> None:
        self._require_writer()
        matrix, places = self._matrix(kind), self._places[kind]
        for item in ids:  # its place goes to the last one
            row, last = places.pop(item), len(self._ids[kind]) - 1
            moved, payload = self._ids[kind].pop(), self._payloads[kind].pop()
            if row != last:
                matrix[row] = matrix[last]
                self._ids[kind][row], self._payloads[kind][row], places[moved] = moved, payload, row
        self._rows[kind] = [matrix[: len(self._ids[kind])].copy()]

    def _search(
        self,
        vectors: np.ndarray,
        top_k: int,
        kinds: Sequence[str],
        where: tuple[Condition, ...],
        with_vectors: bool,
    ) -> list[list[Hit]]:
        scores, parts, starts = [], [], [0]
        for kind in kinds:
            rows, matrix = None, self._matrix(kind)
            if where:
                rows = [place for place, payload in enumerate(self._payloads[kind]) if matches(payload, where)]
                matrix = matrix[rows]
            if len(matrix):
                scores.append(vectors @ matrix.T)
                parts.append((kind, rows))
                starts.append(starts[-1] + len(matrix))
        if not scores:
            return [[] for _ in vectors]
        every = np.concatenate(scores, axis=1) if len(scores) > 1 else scores[0]
        best = _best(every, top_k)

        def hit(score: float, column: int) -> Hit:
            number = bisect(starts, column) - 1
            kind, rows = parts[number]
            row = column - starts[number]
            row = row if rows is None else rows[row]
            vector = self._matrix(kind)[row].copy() if with_vectors else None
            return Hit(self._ids[kind][row], score, kind, self._payloads[kind][row], vector=vector)

        found = zip(np.take_along_axis(every, best, axis=1).tolist(), best.tolist(), strict=True)
        return [[hit(score, column) for score, column in zip(*row, strict=True)] for row in found]

    # -- one folder -------------------------------------------------------------------------------------------------
    def _write(self, folder: Path) -> dict:
        tensors = {kind: np.ascontiguousarray(self._matrix(kind)) for kind in KINDS if self._ids[kind]}
        try:
            save_file(tensors, folder / "embeddings.safetensors")
        except SafetensorError as error:
            raise OSError(f"The vectors cannot be written to {folder.parent}: {error}.") from error
        lost = 0
        with open(folder / "items.jsonl", "w", encoding="utf-8", newline="\n") as file:
            for kind in KINDS:
                for item, payload in zip(self._ids[kind], self._payloads[kind], strict=True):
                    written = _without_object(payload)
                    lost += len(written) < len(payload)
                    record = {"kind": kind, "id": item, "payload": written}
                    file.write(json.dumps(record, ensure_ascii=False) + "\n")
        if lost:
            warnings.warn(f"{lost} images were given as objects: saved without a path.", stacklevel=6)
        counts = {kind: self.count(kind) for kind in KINDS}
        return {"factory": MEMORY, "width": self.width, "model": self.model, "counts": counts}

    @classmethod
    def _require_own(cls, folder: Path, about: dict) -> None:
        if about.get("factory") != MEMORY:
            raise ValueError(
                f"The index in {folder} is one of FAISS ({about.get('factory')}): open it with "
                "`modeling_unimur.index.open_index`."
            )

    @classmethod
    def _read(cls, folder: Path, about: dict) -> RetrievalIndex:
        if not isinstance(about["model"], (str, type(None))):
            raise ValueError(f"its model is {about['model']!r:.60}")
        index = cls(about["width"], about["model"])
        for kind, rows in load_file(folder / "embeddings.safetensors").items():
            if kind not in KINDS:
                raise ValueError(f"it holds vectors of {kind!r:.60}")
            check_vectors(rows, index.width)
            index._rows[kind] = [rows if rows.flags.writeable else rows.copy()]
        with open(folder / "items.jsonl", encoding="utf-8", newline="\n") as file:
            for line in file:
                record = json.loads(line)
                kind, item = record["kind"], checked_id(record["id"])
                if item in index._places[kind]:
                    raise ValueError(f"{kind} {item!r:.60} is there twice")
                index._places[kind][item] = len(index._ids[kind])
                index._ids[kind].append(item)
                index._payloads[kind].append(require_dict(item, record["payload"]))
        if any(len(index._matrix(kind)) != index.count(kind) for kind in KINDS):
            raise ValueError("items and vectors do not agree")
        return index

    def _take(self, other: RetrievalIndex) -> None:
        self._ids, self._payloads, self._places, self._rows = other._ids, other._payloads, other._places, other._rows


def _best(scores: np.ndarray, top_k: int) -> np.ndarray:
    """Columns of the `top_k` highest scores of each row, best first."""
    if top_k < scores.shape[1]:
        best = np.argpartition(scores, -top_k, axis=1)[:, -top_k:]
        order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1, kind="stable")
        return np.take_along_axis(best, order, axis=1)
    return np.argsort(-scores, axis=1, kind="stable")


def _without_object(payload: dict) -> dict:
    """What of a payload JSON can hold."""
    try:
        plain_value(payload.get(_OBJECT))
    except ValueError:
        return {key: value for key, value in payload.items() if key != _OBJECT}
    return payload


__all__ = ["MEMORY", "RetrievalIndex"]
