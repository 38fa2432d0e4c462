"""An index in LanceDB: tables in a folder or in an object store, read and written in the process."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from datetime import timedelta

import numpy as np

from ..memory_index import Condition, Hit
from .base import EF_SEARCH, NPROBE, database_of, local_path
from .database import DatabaseIndex

try:
    import lancedb
    import pyarrow as pa
except ImportError as error:
    raise ImportError("This index is kept by LanceDB: `pip install unimur[lancedb]`.") from error

# Rows that the codes of a product quantizer are fitted to at least.
_LEAST_ROWS = 256
_TEXT = ("key", "item", "kind", "payload")


class LanceDBIndex(DatabaseIndex):
    """Texts and images in LanceDB. Other processes may read and write the same tables.

    An index of cells or links is built by the first `save` with enough rows, and later ones bring it up to date; rows
    that it does not have yet are searched exactly.

    Args:
        uri: `lancedb+FOLDER`, `lancedb+s3://...` or another address that LanceDB takes, `lancedb+memory://`.
        collection, read_only: see `DatabaseIndex`; it is the table's name.
        storage_options: of an object store, such as its keys.
        ef_search, nprobe: candidates that HNSW keeps in view; lists that an inverted file visits.
    """

    name = "LanceDB"
    kinds = {
        "Flat": ("", ()),
        "HNSW32": ("IVF_HNSW_FLAT", ("m",)),
        "IVF1024,Flat": ("IVF_FLAT", ("num_partitions",)),
        "IVF1024,SQ8": ("IVF_SQ", ("num_partitions",)),
        "IVF1024,PQ48": ("IVF_PQ", ("num_partitions", "num_sub_vectors")),
    }

    def __init__(
        self,
        uri: str,
        collection: str,
        read_only: bool,
        storage_options: dict[str, str] | None = None,
        ef_search: int = EF_SEARCH,
        nprobe: int = NPROBE,
    ):
        super().__init__(uri, collection, read_only)
        self._ef_search, self._nprobe = ef_search, nprobe
        folder = local_path(uri)
        if folder is not None and os.path.exists(folder) and not os.path.isdir(folder):
            raise ValueError(f"LanceDB keeps an index in a folder, and {folder} is a file.")
        # A search sees what was added before it, from whichever process.
        self._database = lancedb.connect(
            database_of(uri)[1], read_consistency_interval=timedelta(0), storage_options=storage_options
        )
        self._tables: dict = {}

    def _table(self, collection: str):
        if collection not in self._tables:
            self._tables[collection] = self._database.open_table(collection)
        return self._tables[collection]

    def _has(self, collection: str) -> bool:
        try:
            self._table(collection)
        except (ValueError, FileNotFoundError):
            return False
        return True

    def _create(self, collection: str, width: int, factory: str) -> None:
        self._database.create_table(collection, schema=_schema(width))

    def _upsert(self, collection: str, rows: list[dict]) -> None:
        columns = {name: [row[name] for row in rows] for name in ("key", "item", "kind")}
        columns["payload"] = [json.dumps(row["payload"], ensure_ascii=False) for row in rows]
        columns["terms"] = [_terms(row["payload"]) for row in rows]
        vectors = np.stack([row["vector"] for row in rows])
        columns["vector"] = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
        table = pa.Table.from_pydict(columns, schema=_schema(vectors.shape[1]))
        merge = self._table(collection).merge_insert("key").when_matched_update_all()
        merge.when_not_matched_insert_all().execute(table)

    def _delete(self, keys: list[str]) -> None:
        self._table(self.collection).delete(_in("key", keys))

    def _get(self, collection: str, keys: list[str], field: str) -> dict[str, object]:
        columns = list(dict.fromkeys(["key", field]))
        search = self._table(collection).search().where(_in("key", keys)).select(columns).limit(len(keys))
        rows = search.to_arrow().to_pylist()
        return {row["key"]: json.loads(row[field]) if field == "payload" else row[field] for row in rows}

    def _ask(self, vectors: np.ndarray, limit: int, kind: str | None, where: tuple[Condition, ...]) -> list[list[Hit]]:
        filters = ([] if kind is None else [_in("kind", [kind])]) + lance_filters(where)
        return [self._ask_one(vector, limit, " AND ".join(filters)) for vector in vectors]

    def _ask_one(self, vector: np.ndarray, limit: int, condition: str) -> list[Hit]:
        search = self._table(self.collection).search(vector, vector_column_name="vector").distance_type("dot")
        search = search.select(["item", "kind", "payload", "_distance"]).limit(limit)
        search = search.where(condition, prefilter=True) if condition else search
        kind, _ = self.kind_of(self.factory)
        search = search.ef(max(self._ef_search, limit)) if "HNSW" in kind else search
        search = search.nprobes(self._nprobe) if kind else search
        rows = search.to_arrow().to_pylist()
        return [Hit(row["item"], 1 - row["_distance"], row["kind"], json.loads(row["payload"])) for row in rows]

    def _count(self, kind: str | None) -> int:
        return self._table(self.collection).count_rows(None if kind is None else _in("kind", [kind]))

    def _flush(self, collection: str) -> None:
        table = self._table(collection)
        kind, numbers = self.kind_of(self.factory if collection == self.collection else "Flat")
        if kind and not table.list_indices():
            numbers = {"num_partitions": 1} | numbers
            if table.count_rows() < max(_LEAST_ROWS, numbers["num_partitions"]):
                return
            table.create_index(metric="dot", vector_column_name="vector", index_type=kind, **numbers)
        table.optimize()

    def _disconnect(self) -> None:
        self._tables.clear()


def _schema(width: int) -> pa.Schema:
    fields = [(name, pa.string()) for name in _TEXT] + [("terms", pa.list_(pa.string()))]
    return pa.schema([*fields, ("vector", pa.list_(pa.float32(), width))])


def _terms(payload: dict) -> list[str]:
    """A word for each field of a payload that a condition can name, and its value: LanceDB's SQL does not look into
    JSON text."""
    return [_term(key, value) for key, value in payload.items() if isinstance(value, (str, int, float))]


def _term(key: str, value: str | float | bool) -> str:
    # A value of 1 equals 1.0, and neither equals True. What JSON escapes is ASCII, which SQL takes as it is.
    return json.dumps([key, value if isinstance(value, (str, bool)) else float(value) + 0.0])


def lance_filters(where: tuple[Condition, ...]) -> list[str]:
    """Conditions in LanceDB's SQL. They may hold for more than `matches` says: bounds are left out."""
    return [
        f"array_has_any(terms, [{_quoted([_term(key, value) for value in values])}])"
        for key, name, values in where
        if name == "in"
    ]


def _in(column: str, values: Sequence[str]) -> str:
    return f"{column} IN ({_quoted(values)})"


def _quoted(values: Sequence[str]) -> str:
    return ", ".join("'" + value.replace("'", "''") + "'" for value in values)
