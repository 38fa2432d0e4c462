"""What the databases behind the index interface share: texts and images in one collection, its model in a second."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np

from ..memory_index import Condition, Hit, Query, ThreadLock, VectorIndex, locked, matches
from .base import local_path, payload_text, require_same
from .precision import require_kind, with_precision

_FORMAT = 1
# Rows and bytes of vectors a message: Milvus takes 64 MiB, Qdrant 32 MB, of which ids and payloads need a part.
_MAX_ROWS = 1000
_MESSAGE_BYTES = 16 * 2**20


class DatabaseIndex(VectorIndex):
    """An index that a database keeps; see `open`. `<collection>_about` is a second collection, which says what it is.

    A database has these methods; a row is a dictionary of `key`, `item`, `kind`, `vector` and `payload`:

    - `_has(collection)`: whether there is such a collection, which is ready to be searched then; `_flush(collection)`
      and `_create(collection, width, factory)`.
    - `_upsert(collection, rows)`, `_delete(keys)`, and `_get(collection, keys, field)`: a field of the rows that are
      there, by their keys.
    - `_ask(vectors, limit, kind, where)`: the hits of each query, best first; of those that `where` does not hold for,
      as many as are convenient. `_count(kind)` and `_disconnect()`.
    """

    name: ClassVar[str]
    # Kinds of index by an example in FAISS' words: the database's name of it, and what its numbers are there.
    kinds: ClassVar[dict[str, tuple[str, tuple[str, ...]]]]
    # Hits a query, where it has a bound.
    max_top_k: ClassVar[int | None] = None

    def __init__(self, uri: str, collection: str, read_only: bool):
        self.uri, self.collection, self.read_only, self.guard = uri, collection, read_only, ThreadLock()
        self._closed = False

    @classmethod
    def open(
        cls,
        uri: str,
        width: int | None = None,
        model: str | None = None,
        index: str | None = None,
        read_only: bool = False,
        collection: str = "unimur",
        precision: str | None = None,
        **options: object,
    ) -> DatabaseIndex:
        """Opens the index of a database, or makes a new one, as `open_index` does, in a collection of this name.

        Raises:
            FileNotFoundError: no index there, and no width and model to make one (or `read_only`).
            ValueError: another width, model, kind or precision of index.
            BlockingIOError: another process has the file.
            ConnectionError: no server answers.
        """
        absent = FileNotFoundError(
            f"{uri} contains no index {collection!r}; to make one, give width and model and open it for writing."
        )
        makes, place = not read_only and None not in (width, model), local_path(uri)
        if not makes and place is not None and not cls._may_hold_index(place):
            raise absent
        found = cls(uri, collection, read_only, **options)
        try:
            if not found._find(width, model, index, precision):
                raise absent
        except BaseException:
            found.close()
            raise
        return found

    @staticmethod
    def _may_hold_index(place: str) -> bool:
        """Whether a file or folder is worth opening for reading."""
        return os.path.exists(place)

    def _find(self, width: int | None, model: str | None, index: str | None, precision: str | None) -> bool:
        """Takes the index that is there, or makes one where that may be; whether there is one now."""
        name, second = self.collection, about_name(self.collection)
        if self._has(second) and self._has(name):
            about = self._get(second, ["about"], "payload")["about"]
            if about["format"] != _FORMAT:
                raise ValueError(
                    f"The index in {self.uri} has format {about['format']}; this version reads {_FORMAT}."
                )
            require_same(self.uri, width, model, about["width"], about["model"])
            require_kind(self.uri, about["factory"], index, precision)
            self._begin(about)
            return True
        if self.read_only or None in (width, model):
            return False
        about = {"width": width, "model": model, "factory": with_precision(index, precision)}
        self._begin(about)
        if self._has(name):
            raise ValueError(f"{self.uri} has a collection {name!r} that is no index of this kind; name another.")
        self._create(name, width, about["factory"])
        self._create(second, 2, "Flat")
        row = {"key": "about", "item": "about", "kind": "text", "vector": np.eye(2, dtype=np.float32)[0]}
        self._upsert(second, [row | {"payload": {"format": _FORMAT} | about}])
        self._flush(second)
        return True

    def _begin(self, about: dict) -> None:
        super().__init__(about["width"], about["model"])
        self.factory = about["factory"]
        self.kind_of(self.factory)

    @classmethod
    def kind_of(cls, factory: str) -> tuple[str, dict[str, int]]:
        """The database's name of a kind of index, and the numbers in it.

        Raises:
            ValueError: it has no such kind.
        """
        for example, (name, keys) in cls.kinds.items():
            if match := re.fullmatch(re.sub(r"(HNSW|IVF|PQ)\d+", r"\1(\\d+)", example), factory):
                return name, dict(zip(keys, map(int, match.groups()), strict=True))
        examples = ", ".join(map(repr, cls.kinds))
        raise ValueError(f"{cls.name} makes {examples} (any numbers), not {factory!r}.")

    # -- change -----------------------------------------------------------------------------------------------------
    def _payload(self, item: str, payload: dict | None) -> str:
        return payload_text(item, payload)

    def _add(self, kind: str, ids: list[str], vectors: np.ndarray, payloads: list[str]) -> int:
        known = len(self._known(kind, ids))
        for part in self._parts(ids):
            rows = zip(ids[part], vectors[part], map(json.loads, payloads[part]), strict=True)
            names = ("key", "item", "kind", "vector", "payload")
            rows = [dict(zip(names, (row_key(kind, item), item, kind, *rest), strict=True)) for item, *rest in rows]
            self._upsert(self.collection, rows)
        return known

    def _remove(self, kind: str, ids: list[str]) -> None:
        for part in self._parts(ids):
            self._delete([row_key(kind, item) for item in ids[part]])

    def _parts(self, rows: Sequence) -> Iterator[slice]:
        size = max(1, min(_MAX_ROWS, _MESSAGE_BYTES // (4 * self.width)))
        return (slice(start, start + size) for start in range(0, len(rows), size))

    def _known(self, kind: str, ids: list[str]) -> set[str]:
        keys = {row_key(kind, item): item for item in ids}
        return {keys[key] for key in self._read(list(keys), "key")}

    def _read(self, keys: list[str], field: str) -> dict[str, object]:
        found: dict[str, object] = {}
        for part in self._parts(keys):
            found |= self._get(self.collection, keys[part], field)
        return found

    # -- search -----------------------------------------------------------------------------------------------------
    def _search(self, query: Query) -> list[list[Hit]]:
        if self.max_top_k is not None and query.top_k > self.max_top_k:
            raise ValueError(f"{self.name} returns at most {self.max_top_k} hits a query, not {query.top_k}.")
        kind = query.kinds[0] if len(query.kinds) == 1 else None
        found: list[list[Hit]] = []
        for part in self._parts(query.vectors):
            found += self._matching(query.vectors[part], query.top_k, kind, query.where)
        return self._with_vectors(found) if query.with_vectors else found

    def _matching(
        self, vectors: np.ndarray, top_k: int, kind: str | None, where: tuple[Condition, ...]
    ) -> list[list[Hit]]:
        limit = top_k
        while True:
            answers = self._ask(vectors, limit, kind, where)
            found = [[hit for hit in hits if matches(hit.payload, where)][:top_k] for hits in answers]
            # Some that were found do not match, and more may.
            pairs = zip(found, answers, strict=True)
            short = any(len(hits) < top_k and len(answer) == limit for hits, answer in pairs)
            if not short or limit == self.max_top_k:
                return found
            limit = min(self.max_top_k or 8 * limit, 8 * limit)

    def _with_vectors(self, found: list[list[Hit]]) -> list[list[Hit]]:
        """Hits with their vectors; one that another client has removed since it was found is left out."""
        keys = list(dict.fromkeys(row_key(hit.kind, hit.id) for hits in found for hit in hits))
        vectors = {key: np.asarray(vector, np.float32) for key, vector in self._read(keys, "vector").items()}
        pairs = [[(hit, vectors.get(row_key(hit.kind, hit.id))) for hit in hits] for hits in found]
        return [[replace(hit, vector=vector) for hit, vector in row if vector is not None] for row in pairs]

    @locked
    def count(self, kind: str | None = None) -> int:
        """Number of candidates, or of those of a kind."""
        return self._count(kind)

    # -- files ------------------------------------------------------------------------------------------------------
    @locked
    def save(self) -> None:
        """Flushes; what `add` returned from is in the database's log already."""
        self._flush(self.collection)

    @locked
    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._disconnect()


def row_key(kind: str, item: str) -> str:
    """The key of a row. Ids are any text; a digest needs no quoting in an expression and has one length."""
    return kind[0] + hashlib.sha256(item.encode()).hexdigest()


def about_name(collection: str) -> str:
    """The collection of one row that says which model made an index: descriptions of collections do not survive in a
    Milvus file."""
    return f"{collection}_about"
