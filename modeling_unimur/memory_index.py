"""An exact index in memory, without torch, and what every index shares with it: checks, filters, coherent replies."""

from __future__ import annotations

import functools
import importlib
import itertools
import json
import math
import operator
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

KINDS = ("text", "image")
# What an answer holds: a ranking of each kind, of one, of both together, or of pairs.
MODALITIES = ("both", *KINDS, "joint", "pair")
# What an index in a folder calls this kind, beside FAISS' descriptions of its own.
MEMORY = "memory"
# Vectors of unit length that were rounded to bfloat16 stay within this of it.
UNIT_TOLERANCE = 1e-2
# What Milvus takes in an id, in bytes; the same everywhere, so that an index can move.
ID_BYTES = 65_535
# Deeper values end the recursion of whatever writes or reads them.
_MAX_DEPTH = 100
# So many of each list vote in a coherent reply, and so many are rescored (more, where more are asked for).
DEPTH = 50
# What reading files raises that were written by somebody else.
UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, OverflowError, RuntimeError, SafetensorError)
_RANGES = {"gt": operator.gt, "gte": operator.ge, "lt": operator.lt, "lte": operator.le}
_TAKES = "a value, a list of values or a range such as {'gte': 2020, 'lt': 2025}"


@dataclass(frozen=True, slots=True)
class Hit:
    """One candidate that a search found. `score` is its cosine with the query; where it is another number
    (`Coherence`, hybrid search, a second stage), that is `cosine`. `bm25` is there where words were searched,
    `first_score` where a second stage has rescored, and the vector `(width,)` where it was asked for."""

    id: str
    score: float
    kind: str
    payload: dict = field(default_factory=dict)
    cosine: float | None = None
    bm25: float | None = None
    first_score: float | None = None
    vector: np.ndarray | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Added:
    """How many ids were new to `add`, how many replaced a candidate, and id and reason of what was skipped."""

    added: int
    replaced: int
    skipped: tuple[tuple[Any, str], ...] = ()


class Query(NamedTuple):
    """A checked search: vectors `(queries, width)`, hits for each, and which candidates may be hits."""

    vectors: np.ndarray
    top_k: int
    kinds: tuple[str, ...]
    where: tuple[Condition, ...]
    with_vectors: bool


class ThreadLock:
    """A reentrant lock. A copy of it, and what a pickle of it becomes, is a new lock, which nobody holds."""

    def __init__(self):
        self._lock = threading.RLock()

    def __enter__(self) -> ThreadLock:
        self._lock.acquire()
        return self

    def __exit__(self, *exception: object) -> None:
        self._lock.release()

    def __reduce__(self):
        return ThreadLock, ()


def locked(method: Callable) -> Callable:
    """Lets one thread at a time into an index: `method` runs under its `guard`."""

    @functools.wraps(method)
    def run(self, *args, **kwargs):
        with self.guard:
            return method(self, *args, **kwargs)

    return run


class VectorIndex:
    """Unit vectors of texts and images with ids and payloads, ranked by cosine. Threads may share an index.

    A backend has `_add(kind, ids, vectors, payloads)`, which returns how many ids were known, `_remove(kind, ids)`,
    `_known(kind, ids)`, `_search(query)`, `count(kind=None)`, `save()` and `close()`.

    Args:
        width: of the vectors.
        model: name and revision of the model they come from, as in `"unimur-mini@3f2c1a"`.
    """

    # Whether a payload's image may be an object, which cannot be written as JSON.
    keeps_objects = read_only = False

    def __init__(self, width: int, model: str):
        require_positive("width", width)
        if not isinstance(model, str) or not model.strip():
            raise ValueError("An index needs the model of its vectors: model='<name>@<revision>'.")
        self.width, self.model, self.guard = width, model, ThreadLock()

    @locked
    def add(
        self,
        kind: str,
        ids: Sequence[str],
        vectors: np.ndarray,
        payloads: Sequence[dict] | None = None,
        on_error: str = "raise",
    ) -> Added:
        """Adds candidates; a known id is replaced, and of an id given twice the last counts.

        Args:
            kind: `"text"` or `"image"`.
            ids: one per candidate.
            vectors: array or tensor `(candidates, width)`, unit length.
            payloads: a small JSON object a candidate; see `plain_payload`.
            on_error: `"raise"` a ValueError and add nothing, or `"skip"` and report what cannot be taken.
        """
        _require_kind(kind)
        if on_error not in ("raise", "skip"):
            raise ValueError(f"on_error must be 'raise' or 'skip', got {on_error!r}.")
        ids, matrix = list(ids), self.matrix_of(vectors)
        payloads = [{}] * len(ids) if payloads is None else list(payloads)
        if not len(ids) == len(matrix) == len(payloads):
            raise ValueError(f"{len(ids)} ids, {len(matrix)} vectors and {len(payloads)} payloads do not agree.")
        faults, taken, skipped = vector_faults(matrix), {}, []
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
        self.require_writer()
        rows, kept = map(list, zip(*taken.values(), strict=True))
        known = self._add(kind, list(taken), matrix[rows] if len(rows) < len(ids) else matrix, kept)
        return Added(len(taken) - known, len(ids) - len(skipped) - len(taken) + known, tuple(skipped))

    @locked
    def remove(self, kind: str, ids: Sequence[str]) -> int:
        """Removes candidates and returns how many. Raises ValueError for an unknown id, and removes nothing then."""
        _require_kind(kind)
        wanted = list(dict.fromkeys(checked_id(item) for item in ids))
        known = self._known(kind, wanted)
        if missing := [item for item in wanted if item not in known]:
            names = ", ".join(f"{item!r:.60}" for item in missing[:5]) + (", ..." if len(missing) > 5 else "")
            raise ValueError(f"{len(missing)} of {len(wanted)} {kind} ids are not in the index: {names}.")
        if wanted:
            self.require_writer()
            self._remove(kind, wanted)
        return len(wanted)

    @locked
    def search(
        self,
        vectors: np.ndarray,
        top_k: int = 10,
        kind: str | None = None,
        where: Mapping[str, Any] | None = None,
        with_vectors: bool = False,
    ) -> list[list[Hit]]:
        """The best candidates of each query, best first.

        Args:
            vectors: queries, array or tensor `(queries, width)`, unit length.
            top_k: hits for each query, fewer where fewer match.
            kind: `"text"` or `"image"`; both in one ranking without it.
            where: what payloads must say; see `conditions`.
            with_vectors: whether hits bring their vectors; those of quantized indexes are decoded ones.

        Raises:
            ValueError: wrong kind, width, `top_k` or condition, NaN, vectors that are not normalised.
        """
        if kind is not None:
            _require_kind(kind)
        require_positive("top_k", top_k)
        query = Query(self._unit(vectors), top_k, (kind,) if kind else KINDS, conditions(where), with_vectors)
        return self._search(query) if len(query.vectors) else []

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

    def close(self) -> None:
        """Lets go of what keeps the index; what was not saved may be lost."""

    def refresh(self) -> bool:
        """Switches to the version that a writer has saved since; returns whether there was one."""
        return False

    def require_writer(self) -> None:
        """Raises PermissionError for an index that was opened for reading."""
        if self.read_only:
            raise PermissionError("The index was opened for reading; open it without read_only to change it.")

    def _payload(self, item: str, payload: dict | None) -> Any:
        """What a backend stores of a payload."""
        return plain_payload(item, payload, but=("image",) if self.keeps_objects else ())

    def matrix_of(self, vectors: np.ndarray) -> np.ndarray:
        """Vectors, an array or a tensor, as float32. Raises ValueError for another width."""
        if hasattr(vectors, "detach"):  # a tensor
            vectors = vectors.detach().float().cpu().numpy()
        matrix = np.ascontiguousarray(vectors, dtype=np.float32)
        width = matrix.shape[-1] if self.width is None else self.width
        if matrix.ndim != 2 or matrix.shape[1] != width:
            raise ValueError(f"The index takes vectors of shape (any, {width}), not {matrix.shape}.")
        return matrix

    def _unit(self, vectors: np.ndarray) -> np.ndarray:
        matrix = self.matrix_of(vectors)
        check_vectors(matrix, matrix.shape[1])
        return matrix


class RetrievalIndex(VectorIndex):
    """Unit vectors of candidates with their ids and payloads, searched exactly by cosine. The field `image` of a
    payload may hold an image without a file; it is kept in memory and not saved.

    Args:
        width (`int`, *optional*): of the vectors; that of the first ones by default.
        model (`str`, *optional*): name and revision of their model.
    """

    keeps_objects, factory = True, MEMORY
    # The folder, and the version of it that was read or written last.
    home = version = None
    # Of `modeling_unimur.index.hybrid`: whether words are kept, BM25's index of them, whether the folder has it.
    keeps_words, words, has_saved_words = False, None, True

    def __init__(self, width: int | None = None, model: str | None = None):
        self.width, self.model, self.guard = width, model, ThreadLock()
        self.parts: dict[str, Any] = {kind: Rows() for kind in KINDS}  # the candidates

    @locked
    def count(self, kind: str | None = None) -> int:
        """Number of candidates, or of those of a kind."""
        return sum(len(self.parts[one]) for one in (KINDS if kind is None else (kind,)))

    def _add(self, kind: str, ids: list[str], vectors: np.ndarray, payloads: list) -> int:
        self.width = vectors.shape[1]
        self.forget_words()
        return self.parts[kind].add(ids, vectors, payloads)

    def _remove(self, kind: str, ids: list[str]) -> None:
        self.forget_words()
        self.parts[kind].remove(ids)

    def _known(self, kind: str, ids: list[str]) -> set[str]:
        return {item for item in ids if item in self.parts[kind].rows}

    def _search(self, query: Query) -> list[list[Hit]]:
        hits: list[list[Hit]] = [[] for _ in query.vectors]
        filled = [(kind, self.parts[kind]) for kind in query.kinds if len(self.parts[kind])]
        for kind, part in filled:
            scores, rows = part.search(query.vectors, query.top_k, query.where)
            stored = iter(part.vectors(rows[rows >= 0])) if query.with_vectors else itertools.repeat(None)
            for place, (values, numbers) in enumerate(zip(scores.tolist(), rows.tolist(), strict=True)):
                hits[place] += [
                    Hit(part.ids[row], value, kind, part.payload(row), vector=next(stored))
                    for value, row in zip(values, numbers, strict=True)
                    if row >= 0
                ]
        if len(filled) > 1:
            hits = [sorted(row, key=lambda hit: -hit.score)[: query.top_k] for row in hits]
        return hits

    def forget_words(self) -> None:
        """Words are read from the payloads again when they are needed, because rows have changed."""
        self.words, self.has_saved_words = None, False

    # -- one folder -------------------------------------------------------------------------------------------------
    @locked
    def save(self, folder: str | os.PathLike | None = None, compact: bool = True, replace: bool = False) -> None:
        """Writes the folder's next version; see `modeling_unimur.index.folder`."""
        package("folder", folder or self.home).save(self, folder, compact, replace)

    @classmethod
    def load(
        cls, folder: str | os.PathLike, width: int | None = None, model: str | None = None, read_only: bool = False
    ) -> RetrievalIndex:
        """Reads the folder's current version; see `modeling_unimur.index.folder`."""
        return package("folder", folder).load(cls, folder, width, model, read_only)

    def refresh(self) -> bool:
        return self.read_only and package("folder", self.home).refresh(self)

    @classmethod
    def read_files(cls, folder: Path, about: dict) -> RetrievalIndex:
        """Reads the files of a version, for `about` from its `index.json`. Raises `UNREADABLE` for damaged ones."""
        if not isinstance(about["model"], (str, type(None))):
            raise ValueError(f"its model is {about['model']!r:.60}")
        index, vectors = cls(about["width"], about["model"]), load_file(folder / "embeddings.safetensors")
        with open(folder / "items.jsonl", encoding="utf-8", newline="\n") as file:
            for line in file:
                record = json.loads(line)
                part = index.parts[record["kind"]]
                part.rows[checked_id(record["id"])] = len(part.ids)
                part.ids.append(record["id"])
                part.payloads.append(require_dict(record["id"], record["payload"]))
        for kind, rows in vectors.items():
            check_vectors(rows, index.width)
            index.parts[kind].blocks = [rows if rows.flags.writeable else rows.copy()]
        if any(not len(part.matrix()) == len(part.ids) == len(part.rows) for part in index.parts.values()):
            raise ValueError("items and vectors do not agree")
        return index

    @classmethod
    def read_alone(cls, folder: str | os.PathLike) -> RetrievalIndex:
        """Reads a folder of `save` where the package is not installed. Raises FileNotFoundError without an index,
        ImportError for one of another kind, and ValueError for a damaged one."""
        try:
            version = Path(folder, Path(folder, "CURRENT").read_text(encoding="ascii").split()[0])
            about = json.loads((version / "index.json").read_text(encoding="utf-8"))
            return cls.read_files(version, about) if about["factory"] == MEMORY else package("", folder)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{folder} contains no index: {error.filename} is missing.") from error
        except UNREADABLE as error:
            raise ValueError(f"The index in {folder} is damaged: {error}.") from error


class Rows:
    """The candidates of one kind, by row; vectors in blocks that are not yet joined. A payload may be JSON, and it is
    None for a removed row."""

    def __init__(self):
        self.ids: list[str] = []
        self.payloads: list[dict | str | None] = []
        self.rows: dict[str, int] = {}  # by id
        self.blocks: list[np.ndarray] = []

    def __len__(self) -> int:
        return len(self.rows)

    def matrix(self) -> np.ndarray:
        if len(self.blocks) > 1:
            self.blocks = [np.concatenate(self.blocks)]
        return self.blocks[0] if self.blocks else np.empty((0, 0), np.float32)

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        return self.matrix()[rows]

    def payload(self, row: int) -> dict:
        stored = self.payloads[row]
        return json.loads(stored) if isinstance(stored, str) else stored or {}

    def search(self, vectors: np.ndarray, top_k: int, where: tuple[Condition, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Scores and rows, both `(queries, at most top_k)`, best first."""
        if not where:
            return best_columns(inner_products(vectors, self.matrix()), top_k)
        chosen = np.array([row for row in range(len(self)) if matches(self.payload(row), where)], np.int64)
        scores, best = best_columns(inner_products(vectors, self.matrix()[chosen]), top_k)
        return scores, chosen[best]

    def add(self, ids: list[str], vectors: np.ndarray, payloads: list[dict]) -> int:
        fresh = []
        for number, (item, payload) in enumerate(zip(ids, payloads, strict=True)):
            if item in self.rows:
                self.matrix()[self.rows[item]] = vectors[number]
                self.payloads[self.rows[item]] = payload
            else:
                fresh.append(number)
        for number in fresh:
            self.rows[ids[number]] = len(self.ids)
            self.ids.append(ids[number])
            self.payloads.append(payloads[number])
        if fresh:
            self.blocks.append(vectors[fresh])  # a copy
        return len(ids) - len(fresh)

    def remove(self, ids: list[str]) -> None:
        matrix = self.matrix()
        self.move_last(ids, matrix)
        self.blocks = [matrix[: len(self.ids)].copy()]

    def move_last(self, ids: list[str], matrix: np.ndarray) -> None:
        """Removes candidates; the place of each goes to the last one, in the `matrix` of vectors too."""
        for item in ids:
            row, last = self.rows.pop(item), len(self.ids) - 1
            moved, payload = self.ids.pop(), self.payloads.pop()
            if row != last:
                matrix[row] = matrix[last]
                self.ids[row], self.payloads[row], self.rows[moved] = moved, payload, row


def inner_products(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """`rows @ columns.T`, by torch where a program has imported it: the threads of NumPy's BLAS keep spinning after a
    product, on the cores that the language model needs next."""
    torch = sys.modules.get("torch")
    if torch is None:
        return rows @ columns.T
    left, right = (torch.from_numpy(np.require(one, requirements="W")) for one in (rows, columns))
    return (left @ right.T).numpy()


def best_columns(scores: np.ndarray, top_k: int) -> tuple[np.ndarray, np.ndarray]:
    """The `top_k` highest scores of each row, best first, and their columns."""
    if top_k < scores.shape[1]:
        best = np.argpartition(scores, -top_k, axis=1)[:, -top_k:]
        order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1, kind="stable")
        best = np.take_along_axis(best, order, axis=1)
    else:
        best = np.argsort(-scores, axis=1, kind="stable")
    return np.take_along_axis(scores, best, axis=1), best


# -- the package --------------------------------------------------------------------------------------
def package(module: str, place: object) -> Any:
    """A module of `modeling_unimur.index`, which opens and writes what this file does not."""
    try:
        return importlib.import_module(f"modeling_unimur.index{module and '.'}{module}")
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "modeling_unimur":
            raise
        raise ImportError(
            f"{place}: the code of a release only reads folders of `save_index`. For anything else install or update "
            "the package: `pip install unimur`, unimur[faiss], unimur[milvus], unimur[hybrid] or "
            "unimur[sentence_transformers]."
        ) from error


# -- checks -----------------------------------------------------------------------------------------------------------
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
    """Raises ValueError for vectors that no `add` can have stored."""
    if matrix.dtype != np.float32 or matrix.ndim != 2 or matrix.shape[1] != width:
        raise ValueError(f"its vectors are {matrix.dtype} of shape {matrix.shape}, not float32 of (any, {width})")
    for row, fault in vector_faults(matrix).items():
        raise ValueError(f"Vector {row} {fault}")


def require_positive(name: str, value: int) -> None:
    """Raises ValueError for what is no positive integer."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a positive integer, got {value!r}.")


def _require_kind(kind: str) -> None:
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {KINDS}, got {kind!r}.")


def checked_id(item: str) -> str:
    """An id, as it is. Raises ValueError for one that is empty, too long, not Unicode or no string."""
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
    """A payload, `{}` for none. Raises ValueError, which names the item, for what is no dict."""
    if payload is not None and not isinstance(payload, dict):
        raise ValueError(f"The payload of {item!r:.60} is a dict of JSON values, not {type(payload).__name__}.")
    return payload or {}


def plain_payload(item: str, payload: dict | None, but: tuple[str, ...] = ()) -> dict:
    """A copy of the payload of `item` in JSON values, which every index holds, writes and filters alike. Numpy scalars
    and 0-d tensors become Python's values, tuples lists, and paths strings; fields in `but` may hold objects.

    Raises:
        ValueError: it is no dict, or a field holds what JSON cannot: a date, bytes, a set, an array, NaN, an object,
            an integer beyond 64 bits, half of a surrogate pair; or it nests deeper than 100 levels.
    """
    plain = {}
    for key, value in require_dict(item, payload).items():
        try:
            plain[plain_value({key: None}) and key] = plain_value(value)
        except ValueError as error:
            if key not in but:
                raise ValueError(
                    f"The payload of {item!r:.60} cannot be written as JSON: {key!r:.60} {error}"
                ) from error
            plain[key] = value
    return plain


def plain_value(value: Any, depth: int = 0) -> Any:
    """A JSON value from what can be turned into one; see `plain_payload`. Raises ValueError for the rest."""
    given = value
    if getattr(value, "ndim", None) == 0 and getattr(value.dtype, "kind", "") not in ("M", "m"):
        value = value.item()  # dates are no JSON values, and those of nanoseconds come out as integers
    if isinstance(value, os.PathLike):
        value = os.fsdecode(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        try:
            return value.encode().decode()
        except UnicodeEncodeError as error:
            raise ValueError("contains half of a surrogate pair, which is not valid text.") from error
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    if isinstance(value, (list, tuple)) and depth < _MAX_DEPTH:
        return [plain_value(one, depth + 1) for one in value]
    if isinstance(value, dict) and depth < _MAX_DEPTH and all(isinstance(key, str) for key in value):
        return {plain_value(key): plain_value(one, depth + 1) for key, one in value.items()}
    raise ValueError(
        f"holds {type(given).__name__}, no JSON value: finite numbers, integers of 64 bits, texts, and lists and "
        f"dicts of them up to {_MAX_DEPTH} levels deep are. Convert it, such as a date to its ISO text."
    )


# -- filters ----------------------------------------------------------------------------------------------------------
class Condition(NamedTuple):
    """A field of the payload, `"in"` or the name of a bound, and the values to compare it with."""

    key: str
    name: str
    values: tuple


def conditions(where: Mapping[str, Any] | None) -> tuple[Condition, ...]:
    """Reads a filter: `{"licence": "cc0", "year": {"gte": 2020}, "lang": ["en", "de"]}`.

    All conditions hold together, and mean the same in every index:

    - Booleans, numbers and strings are compared with their own kind only: `True` equals neither `1` nor `"true"`.
    - A list of values holds for a field that equals one of them; the values may be of several kinds.
    - A bound (`gt`, `gte`, `lt`, `lte`) orders numbers by value and strings by code points.
    - A field that is missing, null, a list or an object matches nothing.

    Raises:
        ValueError: what cannot be compared: None, NaN, infinity, an object, a boolean as a bound, an empty list.
    """
    if where is not None and not isinstance(where, Mapping):
        raise ValueError(f"where is a dict of field: {_TAKES}; not {where!r:.60}.")
    found: list[Condition] = []
    for key, value in (where or {}).items():
        if not isinstance(key, str) or not key:
            raise ValueError(f"where names fields of the payload by strings, not by {key!r:.60}.")
        if getattr(value, "ndim", 0) == 1:  # an array
            value = value.tolist()
        if isinstance(value, Mapping):
            bounds = [Condition(key, name, (_scalar(key, bound),)) for name, bound in value.items() if name in _RANGES]
            if len(bounds) < max(1, len(value)) or any(isinstance(bound.values[0], bool) for bound in bounds):
                raise ValueError(f"where[{key!r}] is {_TAKES}, not {value!r:.60}; a boolean cannot be a bound.")
            found += bounds
        else:
            values = value if isinstance(value, (list, tuple, set, frozenset)) else (value,)
            if not values:
                raise ValueError(f"where[{key!r}] is an empty list, which nothing matches.")
            found.append(Condition(key, "in", tuple(_scalar(key, one) for one in values)))
    return tuple(found)


def matches(payload: dict, where: tuple[Condition, ...]) -> bool:
    """Whether all conditions hold for a payload."""
    for key, name, values in where:
        value = payload.get(key)
        same = [other for other in values if _family(other) is _family(value)]
        if not (value in same if name == "in" else same and _RANGES[name](value, same[0])):
            return False
    return True


def _scalar(key: str, value: Any) -> str | float | bool:
    if getattr(value, "ndim", None) == 0:
        value = value.item()
    try:
        if isinstance(value, str):
            value.encode()
            return str(value)
        if isinstance(value, bool) or (isinstance(value, (int, float)) and math.isfinite(value)):
            return value
    except (OverflowError, UnicodeEncodeError):
        pass
    raise ValueError(f"where[{key!r}] is {_TAKES}; {value!r:.60} is not a string, number or boolean.")


def _family(value: Any) -> type | None:
    if isinstance(value, bool):
        return bool
    return float if isinstance(value, (int, float)) else str if isinstance(value, str) else None


# -- the coherent reply -----------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Coherence:
    """How strongly the texts and the images of a reply vote on one another.

    ```
    score(image) = cos(query, image) + weight              * sum_t softmax(cos(query, t) / temperature) * cos(t, image)
    score(text)  = cos(query, text)  + weight * text_share * sum_i softmax(cos(query, i) / temperature) * cos(text, i)
    ```

    The sums run over the first `DEPTH` texts `t` and images `i` by their cosines with the query.

    Args:
        weight: of the vote; 0 leaves two independent rankings.
        text_share: of the weight where images vote on texts; 1 treats both directions alike.
        temperature: of the softmax: a low one lets the first few vote alone.
    """

    weight: float = 1.5
    text_share: float = 0.1
    temperature: float = 0.01

    @classmethod
    def of(cls, config) -> Coherence:
        """That of a model's configuration (`coherence_weight`, `coherence_text_share`, `coherence_temperature`)."""
        given = {one.name: getattr(config, f"coherence_{one.name}", None) for one in fields(cls)}
        return cls(**{name: value for name, value in given.items() if value is not None})

    def scores(self, texts: np.ndarray, images: np.ndarray, agreement: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The new scores of one query's texts and images, float64, from their cosines with the query, best first, and
        from those with each other `(texts, images)`. Where one list is empty, the other keeps its scores."""
        texts, images = np.asarray(texts, np.float64), np.asarray(images, np.float64)
        if not (len(texts) and len(images)):
            return texts, images
        return (
            texts + self.weight * self.text_share * (agreement[:, :DEPTH] @ self._votes(images)),
            images + self.weight * (self._votes(texts) @ agreement[:DEPTH]),
        )

    def _votes(self, scores: np.ndarray) -> np.ndarray:
        """The softmax of the first `DEPTH` scores, which are the best."""
        votes = np.exp((scores[:DEPTH] - scores[0]) / self.temperature)
        return votes / votes.sum()

    def rescore(self, texts: Sequence[Hit], images: Sequence[Hit]) -> tuple[list[Hit], list[Hit]]:
        """Ranks one query's hits again, which have their vectors and come best first. `score` is the new one then, and
        `cosine` that with the query. Where one list is empty or the weight is 0, the hits stay as they are."""
        if not (self.weight and texts and images):
            return list(texts), list(images)
        found = self.scores([hit.score for hit in texts], [hit.score for hit in images], agreement(texts, images))
        ranked = []
        for hits, scores in zip((texts, images), found, strict=True):
            order = np.argsort(-scores, kind="stable").tolist()
            ranked.append([replace(hits[at], score=float(scores[at]), cosine=hits[at].score) for at in order])
        return tuple(ranked)

    def pairs(self, texts: Sequence[Hit], images: Sequence[Hit], top_k: int) -> list[tuple[float, Hit, Hit]]:
        """The `top_k` best pairs of one query's first `DEPTH` texts and images: the score (the sum of both scores and
        `weight` times the cosine of the two), the text and the image. Hits are those of the index or of `rescore`."""
        texts, images = texts[:DEPTH], images[:DEPTH]
        if not (texts and images):
            return []
        text_scores, image_scores = (np.array([hit.score for hit in hits], np.float64) for hits in (texts, images))
        totals = text_scores[:, None] + image_scores + self.weight * agreement(texts, images)
        best = np.argsort(-totals, axis=None, kind="stable")[:top_k]
        places = zip(*np.unravel_index(best, totals.shape), strict=True)
        return [(float(totals[row, column]), texts[row], images[column]) for row, column in places]


def agreement(texts: Sequence[Hit], images: Sequence[Hit]) -> np.ndarray:
    """Cosines `(texts, images)` of hits that have their vectors, float64."""
    return cosines(*(np.stack([hit.vector for hit in hits]) for hits in (texts, images)))


def cosines(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Cosines of two matrices' rows, float64. What codes of an index decode to is not of length 1."""
    lengths = [np.sqrt(np.einsum("ij,ij->i", one, one, dtype=np.float64)) for one in (rows, columns)]
    return inner_products(rows, columns) / np.maximum(np.multiply.outer(*lengths), 1e-12)
