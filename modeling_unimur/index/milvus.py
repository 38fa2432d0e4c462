"""An index in Milvus: a database file in the process (milvus-lite), a server or a cluster, by the same code."""

from __future__ import annotations

import atexit
import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from ..memory_index import ID_BYTES, KINDS, Condition, Hit, Query, VectorIndex, locked, matches
from .base import EF_SEARCH, NPROBE, payload_text, require_same
from .precision import require_kind, with_precision

try:
    from pymilvus import DataType, MilvusClient, MilvusException
except ImportError as error:
    raise ImportError("This index is kept by Milvus: `pip install unimur[milvus]`.") from error

# Milvus' own bounds: hits a query, and bytes a message (64 MiB, of which a part is left for ids and payloads).
MAX_TOP_K = 16_384
_MESSAGE_BYTES = 16 * 2**20
_MAX_ROWS = 1000
_FORMAT = 1
_FACTORIES = (
    (re.compile(r"Flat"), "FLAT", ()),
    (re.compile(r"HNSW(\d+)"), "HNSW", ("M",)),
    (re.compile(r"IVF(\d+),Flat"), "IVF_FLAT", ("nlist",)),
    (re.compile(r"IVF(\d+),SQ8"), "IVF_SQ8", ("nlist",)),
    (re.compile(r"IVF(\d+),PQ(\d+)"), "IVF_PQ", ("nlist", "m")),
)
# The same as FAISS' in a folder.
_EF_CONSTRUCTION = 40
# Of a socket's path, on every system.
_LONGEST_PATH = 100
# All others stand for themselves.
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_SIGNS = {"in": "==", "gt": ">", "gte": ">=", "lt": "<", "lte": "<="}


class MilvusIndex(VectorIndex):
    """Texts and images in one collection; a second one of one row says which model made it. See `open`."""

    def __init__(
        self,
        client: MilvusClient,
        collection: str,
        width: int,
        model: str,
        factory: str,
        ef_search: int,
        nprobe: int,
        read_only: bool,
        file: MilvusFile | None = None,
    ):
        super().__init__(width, model)
        self._file, self._closed = file, False
        self._client, self.collection, self.factory, self.read_only = client, collection, factory, read_only
        index_type, _ = _milvus_index(factory)
        effort = {"ef": ef_search} if index_type == "HNSW" else {"nprobe": nprobe} if "IVF" in index_type else {}
        self._effort = {"metric_type": "IP", "params": effort}

    @classmethod
    def open(
        cls,
        uri: str,
        width: int | None = None,
        model: str | None = None,
        index: str | None = None,
        read_only: bool = False,
        collection: str = "unimur",
        token: str | None = None,
        timeout: float = 10.0,
        ef_search: int = EF_SEARCH,
        nprobe: int = NPROBE,
        precision: str | None = None,
    ) -> MilvusIndex:
        """Opens the index of a database, or makes a new one.

        Args:
            uri: a file `*.db`, or a server's address.
            width, model: of the vectors. A new index needs them; an existing one must have them.
            index: `"Flat"` (exact), `"HNSW32"`, `"IVF1024,Flat"`, `"IVF1024,SQ8"` or `"IVF1024,PQ48"`, of a new one.
            read_only: refuses changes through this object. A file has one process at a time all the same. It is
                served on a socket in a folder that only this user may enter, not on a port.
            collection: its name in the database.
            token: `"user:password"` or a key, where the server wants one.
            timeout: seconds until a server must have answered.
            ef_search, nprobe: candidates that HNSW keeps in view; lists that an inverted file visits.
            precision: `"int8"` for an inverted file in a byte a number; see `open_index`.

        Raises:
            FileNotFoundError: no index there, and no width and model to make one (or `read_only`).
            ValueError: another width, model, kind or precision of index.
            BlockingIOError: another process has the file.
            ConnectionError: no server answers.
        """
        file = MilvusFile.open(uri) if uri.endswith(".db") else None
        client = None
        try:
            client = _connect(uri if file is None else file.address, token, timeout)
            if client.has_collection(_about(collection)):
                client.load_collection(_about(collection))
                client.load_collection(collection)
                row = client.query(_about(collection), filter='key == "about"', output_fields=["payload"])[0]
                about = row["payload"]
                if about["format"] != _FORMAT:
                    raise ValueError(f"The index in {uri} has format {about['format']}; this version reads {_FORMAT}.")
                require_same(uri, width, model, about["width"], about["model"])
                require_kind(uri, about["factory"], index, precision)
            else:
                if read_only or width is None or model is None:
                    raise FileNotFoundError(
                        f"{uri} contains no index {collection!r}; to make one, give width and model and open it for "
                        "writing."
                    )
                about = {
                    "format": _FORMAT,
                    "width": width,
                    "model": model,
                    "factory": with_precision(index, precision),
                }
                VectorIndex.__init__(cls.__new__(cls), width, model)  # checks them before anything is made
                _create(client, collection, about)
            return cls(
                client,
                collection,
                about["width"],
                about["model"],
                about["factory"],
                ef_search,
                nprobe,
                read_only,
                file,
            )
        except BaseException:
            if client is not None:
                client.close()
            if file is not None:
                file.release()
            raise

    def _payload(self, item: str, payload: dict | None) -> str:
        return payload_text(item, payload)

    # -- change -----------------------------------------------------------------------------------------------------
    def _add(self, kind: str, ids: list[str], vectors: np.ndarray, payloads: list[str]) -> int:
        known = len(self._known(kind, ids))
        for part in self._parts(ids):
            rows = [
                {"key": _key(kind, item), "item": item, "kind": kind, "vector": vector, "payload": json.loads(payload)}
                for item, vector, payload in zip(ids[part], vectors[part], payloads[part], strict=True)
            ]
            self._client.upsert(self.collection, rows)
        return known

    def _remove(self, kind: str, ids: list[str]) -> None:
        for part in self._parts(ids):
            self._client.delete(self.collection, ids=[_key(kind, item) for item in ids[part]])

    def _parts(self, rows: Sequence) -> Iterator[slice]:
        size = max(1, min(_MAX_ROWS, _MESSAGE_BYTES // (4 * self.width)))
        return (slice(start, start + size) for start in range(0, len(rows), size))

    def _known(self, kind: str, ids: list[str]) -> set[str]:
        keys = {_key(kind, item): item for item in ids}
        names, known = list(keys), set()
        for part in self._parts(names):
            rows = self._client.get(self.collection, ids=names[part], output_fields=["key"])
            known |= {keys[row["key"]] for row in rows}
        return known

    # -- search -----------------------------------------------------------------------------------------------------
    def _search(self, query: Query) -> list[list[Hit]]:
        if query.top_k > MAX_TOP_K:
            raise ValueError(f"Milvus returns at most {MAX_TOP_K} hits a query, not {query.top_k}.")
        filters = [f'kind == "{query.kinds[0]}"'] if len(query.kinds) == 1 else []
        if query.where:
            filters.append(milvus_expression(query.where))
        found: list[list[Hit]] = []
        for part in self._parts(query.vectors):
            found += self._ask(query.vectors[part], query.top_k, " and ".join(filters), query.where)
        return self._with_vectors(found) if query.with_vectors else found

    def _ask(self, vectors: np.ndarray, top_k: int, expression: str, where: tuple[Condition, ...]) -> list[list[Hit]]:
        limit = top_k
        while True:
            answers = self._client.search(
                self.collection,
                data=list(vectors),
                limit=limit,
                filter=expression,
                output_fields=["item", "kind", "payload"],
                search_params=self._effort,
            )
            found = []
            for answer in answers:
                entities = [(hit["entity"], hit["distance"]) for hit in answer]
                hits = [Hit(e["item"], score, e["kind"], e["payload"]) for e, score in entities]
                found.append([hit for hit in hits if matches(hit.payload, where)][:top_k])
            # Some that were found do not match, and more may.
            short = any(
                len(hits) < top_k and len(answer) == limit for hits, answer in zip(found, answers, strict=True)
            )
            if not short or limit == MAX_TOP_K:
                return found
            limit = min(MAX_TOP_K, 8 * limit)

    def _with_vectors(self, found: list[list[Hit]]) -> list[list[Hit]]:
        """Hits with their vectors; one that another client has removed since it was found is left out."""
        keys = list(dict.fromkeys(_key(hit.kind, hit.id) for hits in found for hit in hits))
        vectors = {}
        for part in self._parts(keys):
            rows = self._client.get(self.collection, ids=keys[part], output_fields=["key", "vector"])
            vectors |= {row["key"]: np.asarray(row["vector"], np.float32) for row in rows}
        pairs = [[(hit, vectors.get(_key(hit.kind, hit.id))) for hit in hits] for hits in found]
        return [[replace(hit, vector=vector) for hit, vector in row if vector is not None] for row in pairs]

    @locked
    def count(self, kind: str | None = None) -> int:
        condition = "" if kind is None else f'kind == "{kind}"'
        return self._client.query(self.collection, filter=condition, output_fields=["count(*)"])[0]["count(*)"]

    # -- files ------------------------------------------------------------------------------------------------------
    @locked
    def save(self) -> None:
        """Flushes; Milvus writes its own log ahead, and what `add` returned from is in it."""
        self._client.flush(self.collection)

    @locked
    def drop(self) -> None:
        """Deletes the index with all its candidates."""
        self.require_writer()
        for name in (self.collection, _about(self.collection)):
            self._client.drop_collection(name)

    @locked
    def close(self) -> None:
        if not self._closed:
            self._closed = True
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
        """Opens a file, or shares it with those of this process that have it open.

        Raises:
            FileNotFoundError: there is no folder for it.
            ImportError: milvus-lite is not installed.
            BlockingIOError: another process has the file.
            ValueError: it is no Milvus file.
        """
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


def _key(kind: str, item: str) -> str:
    # Ids are any text; a digest needs no quoting in an expression and has one length.
    return kind[0] + hashlib.sha256(item.encode()).hexdigest()


def _about(collection: str) -> str:
    # Descriptions of collections do not survive in a file.
    return f"{collection}_about"


def _milvus_index(factory: str) -> tuple[str, dict[str, int]]:
    for form, name, keys in _FACTORIES:
        if match := form.fullmatch(factory):
            values = dict(zip(keys, map(int, match.groups()), strict=True))
            return name, values | ({"efConstruction": _EF_CONSTRUCTION} if name == "HNSW" else {})
    raise ValueError(
        "Milvus makes 'Flat', 'HNSW32', 'IVF1024,Flat', 'IVF1024,SQ8' or 'IVF1024,PQ48' (any numbers), "
        f"not {factory!r}."
    )


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


def _create(client: MilvusClient, collection: str, about: dict) -> None:
    index_type, parameters = _milvus_index(about["factory"])
    if client.has_collection(collection):
        raise ValueError(f"The database has a collection {collection!r} that is no index of this kind; name another.")
    schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("key", DataType.VARCHAR, is_primary=True, max_length=65)
    schema.add_field("item", DataType.VARCHAR, max_length=ID_BYTES)
    schema.add_field("kind", DataType.VARCHAR, max_length=max(map(len, KINDS)))
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=about["width"])
    schema.add_field("payload", DataType.JSON)
    index = client.prepare_index_params()
    index.add_index("vector", index_type=index_type, metric_type="IP", params=parameters)
    # A search sees what was added before it, from whichever client.
    client.create_collection(collection, schema=schema, index_params=index, consistency_level="Strong")
    schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("key", DataType.VARCHAR, is_primary=True, max_length=16)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=2)  # there is no collection without vectors
    schema.add_field("payload", DataType.JSON)
    index = client.prepare_index_params()
    index.add_index("vector", index_type="FLAT", metric_type="IP")
    client.create_collection(_about(collection), schema=schema, index_params=index, consistency_level="Strong")
    client.upsert(_about(collection), [{"key": "about", "vector": [1.0, 0.0], "payload": about}])
    client.flush(_about(collection))


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
