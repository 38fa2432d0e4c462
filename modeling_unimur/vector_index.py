"""The interface of every index: what may go in, what comes back, and the errors in between."""

from __future__ import annotations

import json
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .payload_filters import Condition, conditions

KINDS = ("text", "image")
# Vectors of unit length that were rounded to bfloat16 stay within this of it.
UNIT_TOLERANCE = 1e-2
# What Milvus takes in a JSON field and in an id, in bytes; the same everywhere, so that an index can move.
PAYLOAD_BYTES = 65_535
ID_BYTES = 65_535
_ADDRESS = re.compile(r"(https?|tcp|grpc)://.+|[\w.-]+:\d{1,5}")


def is_database(uri: str | os.PathLike) -> bool:
    """Whether a place is a Milvus file (`*.db`) or server, and not a folder."""
    place = os.fspath(uri)
    return place.endswith(".db") or _ADDRESS.fullmatch(place) is not None


@dataclass(frozen=True, slots=True)
class Hit:
    """One candidate that a search found.

    Args:
        id: the user's.
        score: cosine with the query.
        kind: `"text"` or `"image"`.
        payload: what was stored with it.
    """

    id: str
    score: float
    kind: str
    payload: dict = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Added:
    """How many ids of a call of `add` were new and how many took the place of a candidate; together all of them."""

    added: int
    replaced: int


class VectorIndex(ABC):
    """Unit vectors of texts and pictures with ids and payloads, ranked by cosine.

    An id is unique within its kind; adding it again replaces the candidate.

    Args:
        width: of the vectors.
        model: name and revision of the model they come from, as in `"unimur-mini@3f2c1a"`. Whoever searches or adds
            may pass the model of its vectors: another one is refused.
    """

    # Whether payloads may hold what cannot be written as JSON.
    keeps_objects = False

    def __init__(self, width: int, model: str):
        if not isinstance(width, int) or width < 1:
            raise ValueError(f"width is a whole number from 1 on, not {width!r}.")
        if not isinstance(model, str) or not model.strip():
            raise ValueError("An index needs the model of its vectors: model='<name>@<revision>'.")
        self.width = width
        self.model = model

    # -- what a backend does ----------------------------------------------------------------------------------------
    @abstractmethod
    def _add(self, kind: str, ids: list[str], vectors: np.ndarray, payloads: list) -> int:
        """Stores candidates of distinct ids; payloads are of `_payload`. Returns how many ids were known."""

    @abstractmethod
    def _remove(self, kind: str, ids: list[str]) -> None:
        """Removes candidates that are there."""

    @abstractmethod
    def _known(self, kind: str, ids: list[str]) -> set[str]:
        """Those of the ids that are there."""

    @abstractmethod
    def _search(
        self, vectors: np.ndarray, top_k: int, kinds: Sequence[str], where: tuple[Condition, ...]
    ) -> list[list[Hit]]:
        """The best candidates of each query, best first."""

    @abstractmethod
    def count(self, kind: str | None = None) -> int:
        """Number of candidates, or of those of a kind."""

    @abstractmethod
    def save(self) -> None:
        """Makes what was added and removed durable."""

    @abstractmethod
    def close(self) -> None:
        """Lets go of the files and of the connection; what was not saved may be lost."""

    # -- what its user calls ----------------------------------------------------------------------------------------
    def add(
        self,
        kind: str,
        ids: Sequence[str],
        vectors: np.ndarray,
        payloads: Sequence[dict] | None = None,
        model: str | None = None,
    ) -> Added:
        """Adds candidates; one whose id is known takes the old one's place, of an id given twice the last counts.

        Args:
            kind: `"text"` or `"image"`.
            ids: one a candidate.
            vectors: shape `(candidates, width)`, unit length; an array or a tensor.
            payloads: a small JSON object a candidate (path or URL, caption, licence), up to 64 KiB each.
            model: the model of these vectors, where the caller knows it.

        Raises:
            ValueError: wrong kind, width, model, id or payload, NaN, vectors that are not normalised. Nothing has
                been added then.
        """
        _require_kind(kind)
        self._require_model(model)
        ids = [checked_id(item) for item in ids]
        matrix = self._unit(vectors)
        payloads = [{}] * len(ids) if payloads is None else list(payloads)
        if not len(ids) == len(matrix) == len(payloads):
            raise ValueError(f"{len(ids)} ids, {len(matrix)} vectors and {len(payloads)} payloads do not agree.")
        if not ids:
            return Added(0, 0)
        kept = [self._payload(item, payload) for item, payload in zip(ids, payloads, strict=True)]
        last = {item: row for row, item in enumerate(ids)}
        rows = list(last.values())
        if len(last) < len(ids):
            matrix, kept = matrix[rows], [kept[row] for row in rows]
        known = self._add(kind, list(last), matrix, kept)
        return Added(len(last) - known, len(ids) - len(last) + known)

    def remove(self, kind: str, ids: Sequence[str]) -> int:
        """Removes candidates.

        Returns:
            How many.

        Raises:
            ValueError: an id that is not there; nothing has been removed then.
        """
        _require_kind(kind)
        wanted = list(dict.fromkeys(checked_id(item) for item in ids))
        known = self._known(kind, wanted)
        missing = [item for item in wanted if item not in known]
        if missing:
            names = ", ".join(f"{item!r:.60}" for item in missing[:5]) + (", ..." if len(missing) > 5 else "")
            raise ValueError(f"{len(missing)} of {len(wanted)} {kind} ids are not in the index: {names}.")
        if wanted:
            self._remove(kind, wanted)
        return len(wanted)

    def search(
        self,
        vectors: np.ndarray,
        top_k: int = 10,
        kind: str | None = None,
        where: Mapping[str, Any] | None = None,
        model: str | None = None,
    ) -> list[list[Hit]]:
        """The best candidates of each query.

        Args:
            vectors: queries, shape `(queries, width)`, unit length; an array or a tensor.
            top_k: hits a query, fewer where fewer match.
            kind: `"text"` or `"image"`; both in one ranking without it.
            where: conditions on fields of the payload, all of which hold: a value, a list of values, or a range such
                as `{"gte": 2020}` (`gt`, `gte`, `lt`, `lte`). See `filters.conditions`.
            model: the model of these vectors, where the caller knows it.

        Returns:
            Hits of each query, best first.

        Raises:
            ValueError: wrong kind, width, model, `top_k` or condition, NaN, vectors that are not normalised.
        """
        if kind is not None:
            _require_kind(kind)
        if not isinstance(top_k, int) or isinstance(top_k, bool) or top_k < 1:
            raise ValueError(f"top_k is a whole number from 1 on, not {top_k!r}.")
        self._require_model(model)
        matrix = self._unit(vectors)
        if not len(matrix):
            return []
        return self._search(matrix, top_k, KINDS if kind is None else (kind,), conditions(where))

    def __len__(self) -> int:
        return self.count()

    def __contains__(self, key: tuple[str, str]) -> bool:
        kind, item = key
        return bool(self._known(kind, [item]))

    def __enter__(self) -> VectorIndex:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _payload(self, item: str, payload: dict | None) -> Any:
        """What a backend stores of a payload: its JSON."""
        return payload_text(item, payload)

    # -- checks -----------------------------------------------------------------------------------------------------
    def _require_model(self, model: str | None) -> None:
        if None not in (model, self.model) and model != self.model:
            raise ValueError(
                f"The index holds vectors of {self.model!r}; these are of {model!r}, whose numbers mean something "
                "else. Embed with that model, or build an index for this one."
            )

    def _unit(self, vectors: np.ndarray) -> np.ndarray:
        if hasattr(vectors, "detach"):  # a tensor
            vectors = vectors.detach().float().cpu().numpy()
        matrix = np.ascontiguousarray(vectors, dtype=np.float32)
        width = matrix.shape[-1] if self.width is None else self.width
        if matrix.ndim != 2 or matrix.shape[1] != width:
            raise ValueError(f"The index takes vectors of shape (any, {width}), not {matrix.shape}.")
        squares = np.einsum("ij,ij->i", matrix, matrix)
        if not np.isfinite(squares).all():
            raise ValueError(f"Vector {int(np.argmin(np.isfinite(squares)))} holds NaN or infinity.")
        away = np.abs(np.sqrt(squares) - 1)
        if len(away) and away.max() > UNIT_TOLERANCE:
            row = int(away.argmax())
            raise ValueError(
                f"Vector {row} has length {np.sqrt(squares[row]):.4g}, not 1: divide vectors by their norm first."
            )
        return matrix


def require_same(
    where: object, width: int | None, model: str | None, held_width: int | None, held_model: str | None
) -> None:
    """Refuses an index of another width or model than the caller expects; one that does not say its own passes.

    Raises:
        ValueError: naming the place and both.
    """
    if None not in (width, held_width) and width != held_width:
        raise ValueError(f"The index in {where} holds vectors of {held_width} numbers, not of {width}.")
    if None not in (model, held_model) and model != held_model:
        raise ValueError(
            f"The index in {where} was made by {held_model!r}, not by {model!r}: its vectors mean something else. "
            "Open it with that model, or build another."
        )


def _require_kind(kind: str) -> None:
    if kind not in KINDS:
        raise ValueError(f"kind is one of {KINDS}, not {kind!r}.")


def checked_id(item: str) -> str:
    """An id, as it is.

    Raises:
        ValueError: for what is none.
    """
    if not isinstance(item, str) or not item:
        raise ValueError(f"An id is a string with something in it, not {item!r:.60}.")
    if len(item.encode()) > ID_BYTES:
        raise ValueError(f"An id has at most {ID_BYTES} bytes; {item!r:.60} has {len(item.encode())}.")
    return item


def require_dict(item: str, payload: dict | None) -> dict:
    """A payload, `{}` for none.

    Raises:
        ValueError: for what is no dict, naming the item.
    """
    if payload is not None and not isinstance(payload, dict):
        raise ValueError(f"The payload of {item!r:.60} is a dict of JSON values, not {type(payload).__name__}.")
    return payload or {}


def payload_text(item: str, payload: dict | None) -> str:
    """A payload as JSON.

    Raises:
        ValueError: for what JSON cannot hold, or too much of it, naming the item.
    """
    payload = require_dict(item, payload)
    try:
        text = json.dumps(payload, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"The payload of {item!r:.60} cannot be written as JSON: {error}.") from error
    if len(text.encode()) > PAYLOAD_BYTES:
        raise ValueError(f"The payload of {item!r:.60} is larger than {PAYLOAD_BYTES} bytes: store where it lies.")
    return text


__all__ = [
    "KINDS",
    "Added",
    "Hit",
    "VectorIndex",
    "checked_id",
    "is_database",
    "payload_text",
    "require_dict",
    "require_same",
]
