"""Every backend under one fixture; `UNIMUR_MILVUS_URI` adds a server to them."""

import itertools
import os

import pytest

from modeling_unimur.index import open_index

MODEL = "tiny@1"
SERVER = os.environ.get("UNIMUR_MILVUS_URI")
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


@pytest.fixture(params=[*FOLDERS, "milvus-file", *(["milvus-server"] if SERVER else [])])
def place(request, tmp_path):
    """Arguments of `open_index` for an empty index of 16 numbers."""
    if request.param == "milvus-server":
        collection = f"unimur_test_{os.getpid()}_{next(_NUMBERS)}"
        found = {"uri": SERVER, "collection": collection}
        yield {**found, "width": 16, "model": MODEL}
        with open_index(**found) as index:
            index.drop()
        return
    if request.param == "milvus-file":
        pytest.importorskip("milvus_lite")
        yield {"uri": tmp_path / "items.db", "width": 16, "model": MODEL}
        return
    kind, precision = FOLDERS[request.param]
    yield {"uri": tmp_path / "index", "width": 16, "model": MODEL, "index": kind, "precision": precision}


@pytest.fixture
def index(place):
    with open_index(**place) as found:
        yield found
