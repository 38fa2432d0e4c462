"""An index in Milvus: a database file in the process (milvus-lite), a server or a cluster, by the same code."""

from __future__ import annotations

import atexit
import json
import logging
import os
import shutil
import tempfile
import threading

import numpy as np

from ..memory_index import ID_BYTES, KINDS, Condition, Hit
from .base import EF_SEARCH, NPROBE
from .database import DatabaseIndex

try:
    from pymilvus import DataType, MilvusClient, MilvusException
except ImportError as error:
    raise ImportError("This index is kept by Milvus: `pip install unimur[milvus]`.") from error

# Milvus' own bound on the hits of a query.
MAX_TOP_K = 16_384
# The same as FAISS' in a folder.
_EF_CONSTRUCTION = 40
# Of a socket's path, on every system.
_LONGEST_PATH = 100
# All others stand for themselves.
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_SIGNS = {"in": "==", "gt": ">", "gte": ">=", "lt": "<", "lte": "<="}


class MilvusIndex(DatabaseIndex):
    """Texts and images in Milvus. A file has one process at a time. It is served on a socket in a folder that only
    this user may enter, not on a port.

    Args:
        uri: a file `*.db`, or a server's address.
        token: `"user:password"` or a key, where the server wants one.
        timeout: seconds until a server must have answered.
        ef_search, nprobe: candidates that HNSW keeps in view; lists that an inverted file visits.
    """

    name, max_top_k = "Milvus", MAX_TOP_K
    kinds = {
        "Flat": ("FLAT", ()),
        "HNSW32": ("HNSW", ("M",)),
        "IVF1024,Flat": ("IVF_FLAT", ("nlist",)),
        "IVF1024,SQ8": ("IVF_SQ8", ("nlist",)),
        "IVF1024,PQ48": ("IVF_PQ", ("nlist", "m")),
    }

    def __init__(
        self,
        uri: str,
        collection: str,
        read_only: bool,
        token: str | None = None,
        timeout: float = 10.0,
        ef_search: int = EF_SEARCH,
        nprobe: int = NPROBE,
    ):
        super().__init__(uri, collection, read_only)
        self._efforts = {"ef": ef_search, "nprobe": nprobe}
        self._file = MilvusFile.open(uri) if uri.endswith(".db") else None
        try:
            self._client = _connect(uri if self._file is None else self._file.address, token, timeout)
        except BaseException:
            if self._file is not None:
                self._file.release()
            raise

    def _has(self, collection: str) -> bool:
        found = self._client.has_collection(collection)
        if found:
            self._client.load_collection(collection)
        return found

    def _create(self, collection: str, width: int, factory: str) -> None:
        index_type, parameters = self.kind_of(factory)
        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("key", DataType.VARCHAR, is_primary=True, max_length=65)
        schema.add_field("item", DataType.VARCHAR, max_length=ID_BYTES)
        schema.add_field("kind", DataType.VARCHAR, max_length=max(map(len, KINDS)))
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=width)
        schema.add_field("payload", DataType.JSON)
        index = self._client.prepare_index_params()
        parameters |= {"efConstruction": _EF_CONSTRUCTION} if index_type == "HNSW" else {}
        index.add_index("vector", index_type=index_type, metric_type="IP", params=parameters)
        # A search sees what was added before it, from whichever client.
        self._client.create_collection(collection, schema=schema, index_params=index, consistency_level="Strong")

    def _upsert(self, collection: str, rows: list[dict]) -> None:
        self._client.upsert(collection, rows)

    def _delete(self, keys: list[str]) -> None:
        self._client.delete(self.collection, ids=keys)

    def _get(self, collection: str, keys: list[str], field: str) -> dict[str, object]:
        rows = self._client.get(collection, ids=keys, output_fields=["key", field])
        return {row["key"]: row[field] for row in rows}

    def _ask(self, vectors: np.ndarray, limit: int, kind: str | None, where: tuple[Condition, ...]) -> list[list[Hit]]:
        index_type, _ = self.kind_of(self.factory)
        effort = "ef" if index_type == "HNSW" else "nprobe" if "IVF" in index_type else None
        filters = [_of_kind(kind)] * (kind is not None) + [milvus_expression(where)] * bool(where)
        answers = self._client.search(
            self.collection,
            data=list(vectors),
            limit=limit,
            filter=" and ".join(filters),
            output_fields=["item", "kind", "payload"],
            search_params={"metric_type": "IP", "params": {effort: self._efforts[effort]} if effort else {}},
        )
        pairs = [[(hit["entity"], hit["distance"]) for hit in answer] for answer in answers]
        return [[Hit(row["item"], score, row["kind"], row["payload"]) for row, score in answer] for answer in pairs]

    def _count(self, kind: str | None) -> int:
        condition = "" if kind is None else _of_kind(kind)
        return self._client.query(self.collection, filter=condition, output_fields=["count(*)"])[0]["count(*)"]

    def _flush(self, collection: str) -> None:
        self._client.flush(collection)

    def _disconnect(self) -> None:
        self._client.close()
        if self._file is not None:
            self._file.release()


class MilvusFile:
    """milvus-lite with one file open, shared by all that open it in this process, and closed by the last of them.

    pymilvus itself would serve the file on a port of the loopback interface, without a password, until the process
    ends; see `open`.
    """

    _opened: dict[str, MilvusFile] = {}
    _guard = threading.Lock()

    def __init__(self, path: str):
        from milvus_lite.adapter.grpc.server import start_server_in_thread

        self.path, self._users, self._process = path, 1, os.getpid()
        self._folder = tempfile.mkdtemp(prefix="milvus-")  # of mode 0700
        if len(self._folder) > _LONGEST_PATH - len("/socket:0"):
            os.rmdir(self._folder)
            self._folder = tempfile.mkdtemp(prefix="milvus-", dir="/tmp")
        try:
            socket = f"unix:{self._folder}/socket"
            self._server, self._database, _ = start_server_in_thread(path, host=socket, port=0)
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        self.address = f"{socket}:0"
        atexit.register(self._stop)

    @classmethod
    def open(cls, uri: str) -> MilvusFile:
        """Opens a file, or shares it with those of this process that have it open. Raises FileNotFoundError where
        there is no folder for it, ImportError without milvus-lite, BlockingIOError where another process has the
        file, and ValueError for what is no Milvus file."""
        try:
            from milvus_lite import DataDirLockedError
        except ImportError as error:
            raise ImportError(f"{uri} is opened by milvus-lite: `pip install unimur[milvus]`.") from error
        path = os.path.realpath(uri)
        if not os.path.isdir(os.path.dirname(path)):
            raise FileNotFoundError(f"There is no folder {os.path.dirname(path)} for {uri}.")
        with cls._guard:
            found = cls._opened.get(path)
            if found is not None:
                found._users += 1
                return found
            try:
                cls._opened[path] = cls(path)
            except DataDirLockedError as error:
                raise BlockingIOError(
                    f"Another process has {uri} open; a file has one process at a time. Wait until it closes it, or "
                    "run a Milvus server."
                ) from error
            except Exception as error:  # damaged files make it raise nearly anything
                raise ValueError(f"Milvus cannot open {uri}: {error}.") from error
            return cls._opened[path]

    def release(self) -> None:
        """Closes the file if nobody else of this process has it open: another process may open it then."""
        with self._guard:
            self._users -= 1
            if self._users:
                return
            del self._opened[self.path]
            atexit.unregister(self._stop)
            self._stop()

    def _stop(self) -> None:
        if os.getpid() == self._process:  # a fork has the object and not the server
            self._server.stop(grace=2).wait()
            self._database.close()
            shutil.rmtree(self._folder, ignore_errors=True)


def _of_kind(kind: str) -> str:
    return f'kind == "{kind}"'


def _connect(uri: str, token: str | None, timeout: float) -> MilvusClient:
    address = uri if "://" in uri or uri.startswith("unix:") else f"http://{uri}"
    logger = logging.getLogger("pymilvus")
    level = logger.level
    try:
        logger.setLevel(logging.CRITICAL)  # what it would log is in the error
        return MilvusClient(uri=address, token=token or "", timeout=timeout)
    except MilvusException as error:
        raise ConnectionError(f"No Milvus answers at {uri}: {error.message}. Is the server up?") from error
    finally:
        logger.setLevel(level)


def milvus_expression(where: tuple[Condition, ...]) -> str:
    """The conditions as Milvus' filter language, over the JSON field `payload`; empty without conditions.

    It may hold for more than `matches` says: milvus-lite takes booleans for numbers.
    """
    parts = []
    for key, name, values in where:
        # Membership is spelled out: milvus-lite knows `in` for plain fields only.
        sign = _SIGNS[name]
        each = [f"payload[{_quoted(key)}] {sign} {_quoted(value)}" for value in values]
        parts.append(each[0] if len(each) == 1 else f"({' or '.join(each)})")
    return " and ".join(parts)


def _quoted(value: str | float | bool) -> str:
    if isinstance(value, str):
        return '"' + "".join(_ESCAPES.get(sign, sign) for sign in value) + '"'
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        value = float(value)
    return json.dumps(value)
