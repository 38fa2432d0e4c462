"""Every backend under one fixture; `UNIMUR_MILVUS_URI` adds a server to them.

Databases of an extra that `make test` does not install are searched in `make test-slow`.
"""

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


# Databases in a file or folder, by how they are named: the package that a test needs, and the place.
DATABASES = {
    "milvus-file": ("milvus_lite", "{}/items.db"),
    "qdrant-folder": ("qdrant_client", "qdrant+{}/items"),
    "lancedb-folder": ("lancedb", "lancedb+{}/items"),
}
IN_SLOW_TESTS = [pytest.param(name, marks=pytest.mark.slow) for name in ("qdrant-folder", "lancedb-folder")]


def database(name: str, folder) -> str:
    """Place of an empty index in a folder; skips a test where the package is not installed."""
    package, uri = DATABASES[name]
    pytest.importorskip(package)
    return uri.format(folder)


@pytest.fixture(params=[*FOLDERS, "milvus-file", *IN_SLOW_TESTS, *(["milvus-server"] if SERVER else [])])
def place(request, tmp_path):
    """Arguments of `open_index` for an empty index of 16 numbers."""
    if request.param == "milvus-server":
        collection = f"unimur_test_{os.getpid()}_{next(_NUMBERS)}"
        found = {"uri": SERVER, "collection": collection}
        yield {**found, "width": 16, "model": MODEL}
        with open_index(**found) as index:
            index.drop()
        return
    if request.param in DATABASES:
        yield {"uri": database(request.param, tmp_path), "width": 16, "model": MODEL}
        return
    kind, precision = FOLDERS[request.param]
    yield {"uri": tmp_path / "index", "width": 16, "model": MODEL, "index": kind, "precision": precision}


@pytest.fixture
def index(place):
    with open_index(**place) as found:
        yield found
