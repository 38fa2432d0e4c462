"""Every backend under one fixture; `UNIMUR_MILVUS_URI` and `UNIMUR_QDRANT_URI` add servers to them."""

import itertools
import os

import pytest

from modeling_unimur.index import open_index
from modeling_unimur.index.database import about_name
from tests.index.databases import DATABASES, PLACES, database

MODEL = "tiny@1"
# A Milvus server is named by its address, one of Qdrant as `qdrant+http://localhost:6333`.
SERVERS = {name: os.environ[name] for name in ("UNIMUR_MILVUS_URI", "UNIMUR_QDRANT_URI") if name in os.environ}
_NUMBERS = itertools.count()


# Kinds of an index in a folder, and the precision of their vectors.
FOLDERS = {
    "memory": ("memory", None),
    "memory-int8": ("memory", "int8"),
    "memory-binary": ("memory", "binary"),
    "faiss": ("Flat", None),
    "faiss-int8": ("Flat", "int8"),
    "faiss-hnsw": ("HNSW16", None),
}


@pytest.fixture(params=[*FOLDERS, *DATABASES, *SERVERS])
def place(request, tmp_path):
    """Arguments of `open_index` for an empty index of 16 numbers."""
    if request.param in SERVERS:
        collection = f"unimur_test_{os.getpid()}_{next(_NUMBERS)}"
        found = {"uri": SERVERS[request.param], "collection": collection}
        yield {**found, "width": 16, "model": MODEL}
        with open_index(**found) as index:
            drop = getattr(index._client, "drop_collection", None) or index._client.delete_collection
            for name in (collection, about_name(collection)):
                drop(name)
        return
    if request.param in PLACES:
        yield {"uri": database(request.param, tmp_path), "width": 16, "model": MODEL}
        return
    kind, precision = FOLDERS[request.param]
    yield {"uri": tmp_path / "index", "width": 16, "model": MODEL, "index": kind, "precision": precision}


@pytest.fixture
def index(place):
    with open_index(**place) as found:
        yield found
