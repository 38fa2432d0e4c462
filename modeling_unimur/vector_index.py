"""The interface of every index: what may go in, what comes back, and the errors in between."""

from __future__ import annotations

import functools
import json
import math
import os
import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .payload_filters import Condition, conditions

KINDS = ("text", "image")
# What an answer holds: a ranking of each kind, of one, of both together, or of pairs.
MODALITIES = ("both", *KINDS, "joint", "pair")
# Vectors of unit length that were rounded to bfloat16 stay within this of it.
UNIT_TOLERANCE = 1e-2
# What Milvus takes in a JSON field and in an id, in bytes; the same everywhere, so that an index can move.
PAYLOAD_BYTES = 65_535
ID_BYTES = 65_535
_INTEGERS = 2**63
# Deeper values end the recursion of whatever writes or reads them.
_MAX_DEPTH = 100
_BLOCK = 65_536
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
        cosine: that with the query, where `score` is another number (`coherent_reply`).
        vector: the candidate's, `(width,)`, where it was asked for.
    """

    id: str
    score: float
    kind: str
    payload: dict = field(default_factory=dict)
    cosine: float | None = None
    vector: np.ndarray | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Added:
    """What a call of `add` came to.

    Args:
        added: ids that were new.
        replaced: ids that took the place of a candidate; with `added` and `skipped` all that were given.
        skipped: id and reason of what was left out, for `on_error="skip"`.
    """

    added: int
    replaced: int
    skipped: tuple[tuple[Any, str], ...] = ()


def locked(method: Callable) -> Callable:
    """Lets one thread at a time into an index: `method` runs under its lock, which a thread may take again."""

    @functools.wraps(method)
    def run(self, *args, **kwargs):
        with self._guard:
            return method(self, *args, **kwargs)

    return run


class VectorIndex(ABC):
    """Unit vectors of texts and pictures with ids and payloads, ranked by cosine.

    An id is unique within its kind; adding it again replaces the candidate. Threads may share an index: each call sees
    it as the calls before have left it.

    Args:
        width: of the vectors.
        model: name and revision of the model they come from, as in `"unimur-mini@3f2c1a"`. Whoever searches or adds
            may pass the model of its vectors: another one is refused.
    """

    # Whether payloads may hold what cannot be written as JSON.
    keeps_objects = False

    def __init__(self, width: int, model: str):
        if not isinstance(width, int) or width < 1:
            raise ValueError(f"width must be a positive integer, got {width!r}.")
        if not isinstance(model, str) or not model.strip():
            raise ValueError("An index needs the model of its vectors: model='<name>@<revision>'.")
        self.width = width
        self.model = model
        self._guard = threading.RLock()

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name != "_guard"}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._guard = threading.RLock()

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
        self,
        vectors: np.ndarray,
        top_k: int,
        kinds: Sequence[str],
        where: tuple[Condition, ...],
        with_vectors: bool,
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
    @locked
    def add(
        self,
        kind: str,
        ids: Sequence[str],
        vectors: np.ndarray,
        payloads: Sequence[dict] | None = None,
        model: str | None = None,
        on_error: str = "raise",
    ) -> Added:
        """Adds candidates; one whose id is known takes the old one's place, of an id given twice the last counts.

        Args:
            kind: `"text"` or `"image"`.
            ids: one a candidate.
            vectors: shape `(candidates, width)`, unit length; an array or a tensor.
            payloads: a small JSON object a candidate (path or URL, caption, licence), up to 64 KiB each; see
                `plain_payload` for what it may hold.
            model: the model of these vectors, where the caller knows it.
            on_error: `"raise"`, or `"skip"`: candidates whose id, vector or payload cannot be taken are left out and
                named in the answer, and the rest is added.

        Raises:
            ValueError: wrong kind, width, model, id or payload, NaN, vectors that are not normalised; the message
                names the candidate. Nothing has been added then.
        """
        _require_kind(kind)
        if on_error not in ("raise", "skip"):
            raise ValueError(f"on_error must be 'raise' or 'skip', got {on_error!r}.")
        self._require_model(model)
        ids, matrix = list(ids), self._matrix_of(vectors)
        payloads = [{}] * len(ids) if payloads is None else list(payloads)
        if not len(ids) == len(matrix) == len(payloads):
            raise ValueError(f"{len(ids)} ids, {len(matrix)} vectors and {len(payloads)} payloads do not agree.")
        faults = vector_faults(matrix)
        taken: dict[str, tuple[int, Any]] = {}
        skipped: list[tuple[Any, str]] = []
        for row, (item, payload) in enumerate(zip(ids, payloads, strict=True)):
            try:
                checked_id(item)
                if row in faults:
                    raise ValueError(f"Vector {row} {faults[row]} Its id is {item!r:.60}.")
                taken[item] = row, self._payload(item, payload)
            except ValueError as error:
                if on_error == "raise":
                    raise
                skipped.append((item, str(error)))
        if not taken:
            return Added(0, 0, tuple(skipped))
        rows, kept = map(list, zip(*taken.values(), strict=True))
        if len(rows) < len(ids):
            matrix = matrix[rows]
        known = self._add(kind, list(taken), matrix, kept)
        return Added(len(taken) - known, len(ids) - len(skipped) - len(taken) + known, tuple(skipped))

    @locked
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

    @locked
    def search(
        self,
        vectors: np.ndarray,
        top_k: int = 10,
        kind: str | None = None,
        where: Mapping[str, Any] | None = None,
        model: str | None = None,
        with_vectors: bool = False,
    ) -> list[list[Hit]]:
        """The best candidates of each query.

        Args:
            vectors: queries, shape `(queries, width)`, unit length; an array or a tensor.
            top_k: hits a query, fewer where fewer match.
            kind: `"text"` or `"image"`; both in one ranking without it.
            where: conditions on fields of the payload, all of which hold: a value, a list of values, or a range such
                as `{"gte": 2020}` (`gt`, `gte`, `lt`, `lte`). See `payload_filters.conditions`.
            model: the model of these vectors, where the caller knows it.
            with_vectors: whether hits bring their vectors; of an index of codes, what the codes decode to.

        Returns:
            Hits of each query, best first.

        Raises:
            ValueError: wrong kind, width, model, `top_k` or condition, NaN, vectors that are not normalised.
        """
        if kind is not None:
            _require_kind(kind)
        if not isinstance(top_k, int) or isinstance(top_k, bool) or top_k < 1:
            raise ValueError(f"top_k must be a positive integer, got {top_k!r}.")
        self._require_model(model)
        matrix = self._unit(vectors)
        if not len(matrix):
            return []
        kinds = KINDS if kind is None else (kind,)
        return self._search(matrix, top_k, kinds, conditions(where), with_vectors)

    def __len__(self) -> int:
        return self.count()

    @locked
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

    def _matrix_of(self, vectors: np.ndarray) -> np.ndarray:
        if hasattr(vectors, "detach"):  # a tensor
            vectors = vectors.detach().float().cpu().numpy()
        matrix = np.ascontiguousarray(vectors, dtype=np.float32)
        width = matrix.shape[-1] if self.width is None else self.width
        if matrix.ndim != 2 or matrix.shape[1] != width:
            raise ValueError(f"The index takes vectors of shape (any, {width}), not {matrix.shape}.")
        return matrix

    def _unit(self, vectors: np.ndarray) -> np.ndarray:
        matrix = self._matrix_of(vectors)
        for row, fault in vector_faults(matrix).items():
            raise ValueError(f"Vector {row} {fault}")
        return matrix


def vector_faults(matrix: np.ndarray) -> dict[int, str]:
    """What is wrong with rows `(rows, width)`, by their numbers; nothing for finite ones of unit length."""
    squares = np.einsum("ij,ij->i", matrix, matrix)
    with np.errstate(invalid="ignore"):
        bad = ~(np.abs(np.sqrt(squares) - 1) <= UNIT_TOLERANCE)
    return {
        int(row): f"has length {np.sqrt(squares[row]):.4g}, not 1: divide vectors by their norm first."
        if np.isfinite(squares[row])
        else "holds NaN or infinity."
        for row in np.flatnonzero(bad)
    }


def check_vectors(matrix: np.ndarray, width: int | None) -> None:
    """Refuses vectors that were read but that no `add` can have stored.

    Raises:
        ValueError: another type than float32, another shape than `(any, width)`, NaN, or another length than 1.
    """
    if matrix.dtype != np.float32 or matrix.ndim != 2 or matrix.shape[1] != width:
        raise ValueError(f"its vectors are {matrix.dtype} of shape {matrix.shape}, not float32 of (any, {width})")
    for start in range(0, len(matrix), _BLOCK):
        for row, fault in vector_faults(matrix[start : start + _BLOCK]).items():
            raise ValueError(f"vector {start + row} {fault.rstrip('.')}")


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
        raise ValueError(f"kind must be one of {KINDS}, got {kind!r}.")


def checked_id(item: str) -> str:
    """An id, as it is.

    Raises:
        ValueError: for what is none: no string, empty, longer than 65,535 bytes, not Unicode.
    """
    if not isinstance(item, str) or not item:
        raise ValueError(f"An id is a string with something in it, not {item!r:.60}.")
    try:
        size = len(item.encode())
    except UnicodeEncodeError as error:
        raise ValueError(f"An id is Unicode text; {item!r:.60} holds half of a surrogate pair.") from error
    if size > ID_BYTES:
        raise ValueError(f"An id has at most {ID_BYTES} bytes; {item!r:.60} has {size}.")
    return item


def require_dict(item: str, payload: dict | None) -> dict:
    """A payload, `{}` for none.

    Raises:
        ValueError: for what is no dict, naming the item.
    """
    if payload is not None and not isinstance(payload, dict):
        raise ValueError(f"The payload of {item!r:.60} is a dict of JSON values, not {type(payload).__name__}.")
    return payload or {}


def plain_payload(item: str, payload: dict | None, but: tuple[str, ...] = ()) -> dict:
    """A payload of JSON values, which every index holds, writes and filters alike; `{}` for none.

    Numpy scalars, arrays of no dimension and 0-d tensors become Python's values, tuples lists, and paths strings.

    Args:
        item: whose it is, for the message.
        payload: to read; it is not changed.
        but: fields that may hold objects; those are taken as they are.

    Raises:
        ValueError: it is no dict, or a field holds what JSON cannot: a date, bytes, a set, an array, NaN, an object,
            an integer beyond 64 bits, half of a surrogate pair; or it nests deeper than 100 levels. The message names
            the item and the field.
    """
    plain = {}
    for key, value in require_dict(item, payload).items():
        try:
            plain[_plain_text(key)] = plain_value(value)
        except ValueError as error:
            if key in but:
                plain[key] = value
                continue
            raise ValueError(f"The payload of {item!r:.60} cannot be written as JSON: {key!r:.60} {error}") from error
    return plain


def plain_value(value: Any, depth: int = 0) -> Any:
    """A JSON value from what can be turned into one; see `plain_payload`.

    Raises:
        ValueError: the rest.
    """
    if value is None or isinstance(value, (bool, np.bool_)):
        return None if value is None else bool(value)
    if isinstance(value, str):
        return _plain_text(value)
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:  # a numpy scalar, a 0-d array or tensor
        unpacked = value.item()
        # Nanoseconds come out as an integer.
        is_time = getattr(value.dtype, "kind", "") in ("M", "m")
        if is_time or not isinstance(unpacked, (bool, int, float, str)):
            raise ValueError(f"holds {type(unpacked).__name__}, which is not a JSON value: convert it.")
        value = unpacked
        if isinstance(value, (bool, str)):
            return plain_value(value)
    if isinstance(value, int):
        if not -_INTEGERS <= value < _INTEGERS:
            raise ValueError("holds an integer beyond 64 bits: store it as a string.")
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("holds NaN or infinity: leave the field out.")
        return float(value)
    if depth >= _MAX_DEPTH:
        raise ValueError(f"nests deeper than {_MAX_DEPTH} levels.")
    if isinstance(value, (list, tuple)):
        return [plain_value(one, depth + 1) for one in value]
    if isinstance(value, dict):
        return {_plain_text(key): plain_value(one, depth + 1) for key, one in value.items()}
    if isinstance(value, os.PathLike):
        return _plain_text(os.fsdecode(value))
    raise ValueError(
        f"holds {type(value).__name__}, which is not a JSON value: convert it, such as a date to its ISO text."
    )


def _plain_text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"is named by {type(value).__name__}; JSON names fields by strings.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError("contains half of a surrogate pair, which is not valid text.") from error
    return str(value)


def payload_text(item: str, payload: dict | None) -> str:
    """A payload as JSON.

    Raises:
        ValueError: for what `plain_payload` refuses, or too much of it, naming the item.
    """
    text = json.dumps(plain_payload(item, payload), ensure_ascii=False)
    if len(text.encode()) > PAYLOAD_BYTES:
        raise ValueError(f"The payload of {item!r:.60} is larger than {PAYLOAD_BYTES} bytes: store where it lies.")
    return text


__all__ = [
    "KINDS",
    "MODALITIES",
    "Added",
    "Hit",
    "VectorIndex",
    "check_vectors",
    "checked_id",
    "is_database",
    "locked",
    "payload_text",
    "plain_payload",
    "plain_value",
    "require_dict",
    "require_same",
    "vector_faults",
]
