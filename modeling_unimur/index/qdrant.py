"""An index in Qdrant: a folder or memory of the process, a server or a cluster, by the same code."""

from __future__ import annotations

import os
import uuid
import warnings

import numpy as np

from ..memory_index import Condition, Hit
from .base import EF_SEARCH, database_of, local_path
from .database import DatabaseIndex

try:
    from qdrant_client import QdrantClient, models
    from qdrant_client.http.exceptions import ApiException
except ImportError as error:
    raise ImportError("This index is kept by Qdrant: `pip install unimur[qdrant]`.") from error

_EF_CONSTRUCTION = 40
# Beyond it Qdrant's numbers, which are float64, do not tell integers apart.
_EXACT = 2**53


class QdrantIndex(DatabaseIndex):
    """Texts and images in Qdrant. A folder has one client at a time, and is searched exactly.

    Args:
        uri: `qdrant+http(s)://host:port`, `qdrant+FOLDER` or `qdrant+:memory:`.
        collection, read_only: see `DatabaseIndex`.
        token: the server's API key.
        timeout: seconds until a server must have answered.
        ef_search: candidates that HNSW keeps in view.
    """

    name = "Qdrant"
    kinds = {"Flat": ("", ()), "HNSW32": ("HNSW", ("m",))}

    def __init__(
        self,
        uri: str,
        collection: str,
        read_only: bool,
        token: str | None = None,
        timeout: float = 10.0,
        ef_search: int = EF_SEARCH,
    ):
        super().__init__(uri, collection, read_only)
        self._ef_search, self._is_server = ef_search, "://" in uri
        self._client = _connect(uri, token, timeout)

    @staticmethod
    def _may_hold_index(place: str) -> bool:
        # Qdrant's client writes into every folder that it opens, also one of images that is named by mistake.
        return os.path.isfile(place) or os.path.isfile(os.path.join(place, "meta.json"))

    def _has(self, collection: str) -> bool:
        try:
            return self._client.collection_exists(collection)
        except ApiException as error:
            raise ConnectionError(f"No Qdrant answers at {self.uri}: {error}. Is the server up?") from error

    def _create(self, collection: str, width: int, factory: str) -> None:
        _, numbers = self.kind_of(factory)
        links = numbers.get("m", 0)  # without links every search is exact
        self._client.create_collection(
            collection,
            vectors_config=models.VectorParams(size=width, distance=models.Distance.DOT),
            hnsw_config=models.HnswConfigDiff(m=links, ef_construct=max(_EF_CONSTRUCTION, links)),
        )
        if self._is_server:  # one in the process has none, and warns
            self._client.create_payload_index(collection, "kind", models.PayloadSchemaType.KEYWORD)

    def _upsert(self, collection: str, rows: list[dict]) -> None:
        points = [
            models.PointStruct(
                id=_point(row["key"]),
                vector=row["vector"].tolist(),
                payload={name: row[name] for name in ("key", "item", "kind", "payload")},
            )
            for row in rows
        ]
        self._client.upsert(collection, points, wait=True)

    def _delete(self, keys: list[str]) -> None:
        chosen = models.PointIdsList(points=[_point(key) for key in keys])
        self._client.delete(self.collection, chosen, wait=True)

    def _get(self, collection: str, keys: list[str], field: str) -> dict[str, object]:
        wanted = ["key", "payload"] if field == "payload" else ["key"]
        ids = [_point(key) for key in keys]
        points = self._client.retrieve(collection, ids, with_payload=wanted, with_vectors=field == "vector")
        return {one.payload["key"]: one.vector if field == "vector" else one.payload[field] for one in points}

    def _ask(self, vectors: np.ndarray, limit: int, kind: str | None, where: tuple[Condition, ...]) -> list[list[Hit]]:
        _, numbers = self.kind_of(self.factory)
        # In the process every search is exact.
        effort = models.SearchParams(hnsw_ef=self._ef_search, exact=not numbers) if self._is_server else None
        chosen = qdrant_filter(kind, where)
        requests = [
            models.QueryRequest(query=vector, limit=limit, filter=chosen, params=effort, with_payload=True)
            for vector in vectors.tolist()
        ]
        answers = self._client.query_batch_points(self.collection, requests)
        return [
            [Hit(one.payload["item"], one.score, one.payload["kind"], one.payload["payload"]) for one in answer.points]
            for answer in answers
        ]

    def _count(self, kind: str | None) -> int:
        return self._client.count(self.collection, count_filter=qdrant_filter(kind, ()), exact=True).count

    def _flush(self, collection: str) -> None:
        """Qdrant has written what `add` returned from."""

    def _disconnect(self) -> None:
        self._client.close()


def _point(key: str) -> str:
    # A point has a number or a UUID.
    return str(uuid.uuid5(uuid.NAMESPACE_OID, key))


def _connect(uri: str, token: str | None, timeout: float) -> QdrantClient:
    _, place = database_of(uri)
    folder = local_path(uri)
    if folder is None:
        if place == ":memory:":
            return QdrantClient(place)
        return QdrantClient(url=place, api_key=token, timeout=max(1, round(timeout)), check_compatibility=False)
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise ValueError(f"Qdrant keeps an index in a folder, and {folder} is a file.")
    try:
        with warnings.catch_warnings():  # of many points; docs/scaling.md says the same
            warnings.simplefilter("ignore", UserWarning)
            # One thread at a time: an index has a lock.
            return QdrantClient(path=folder, force_disable_check_same_thread=True)
    except RuntimeError as error:
        raise BlockingIOError(
            f"Another client has {folder} open; a folder has one at a time. Wait until it closes it, or run a Qdrant "
            "server."
        ) from error


def qdrant_filter(kind: str | None, where: tuple[Condition, ...]) -> models.Filter | None:
    """A kind and conditions as Qdrant's filter, over the object `payload`; None without any.

    It may hold for more than `matches` says: keys with quotes, bounds of strings and integers that float64 does not
    tell apart are left out.
    """
    must: list = [] if kind is None else [models.FieldCondition(key="kind", match=models.MatchValue(value=kind))]
    for key, name, values in where:
        each = [None if '"' in key or "\\" in key else _condition(f'payload."{key}"', name, value) for value in values]
        if None not in each:
            must.append(each[0] if len(each) == 1 else models.Filter(should=each))
    return models.Filter(must=must) if must else None


def _condition(key: str, name: str, value: str | float | bool) -> models.FieldCondition | None:
    if isinstance(value, (str, bool)):
        return models.FieldCondition(key=key, match=models.MatchValue(value=value)) if name == "in" else None
    if abs(value) >= _EXACT:
        return None
    # A value of 1 equals 1.0.
    bounds = {"gte": value, "lte": value} if name == "in" else {name: value}
    return models.FieldCondition(key=key, range=models.Range(**bounds))
