"""Databases behind the index interface, as fixtures name them.

Those of an extra that `make test` does not install are searched in `make test-slow`.
"""

from __future__ import annotations

import pytest

# The package that a test needs, and the place in a folder.
PLACES = {
    "milvus": ("milvus_lite", "{}/items.db"),
    "qdrant": ("qdrant_client", "qdrant+{}/items"),
    "lancedb": ("lancedb", "lancedb+{}/items"),
}
DATABASES = ["milvus", *(pytest.param(name, marks=pytest.mark.slow) for name in ("qdrant", "lancedb"))]


def database(name: str, folder) -> str:
    """Place of an empty index in a folder; skips a test where the package is not installed."""
    package, uri = PLACES[name]
    pytest.importorskip(package)
    return uri.format(folder)
