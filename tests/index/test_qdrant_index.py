"""What is Qdrant's own: memory, one client a folder, a server that is not there, filters."""

from __future__ import annotations

import pytest

from modeling_unimur.index import open_index
from modeling_unimur.memory_index import conditions
from tests.index.test_database import fill

pytest.importorskip("qdrant_client")
pytestmark = pytest.mark.slow


def test_a_folder_has_one_client(tmp_path):
    place = f"qdrant+{tmp_path}/items"
    with open_index(place, 32, "tiny@1") as index:
        fill(index)
        with pytest.raises(BlockingIOError, match="items"):
            open_index(place)
    index.close()  # again
    with open_index(place, read_only=True) as index:
        assert len(index) == 600


def test_reading_leaves_a_folder_of_something_else_as_it_is(tmp_path):
    (tmp_path / "image.png").write_bytes(b"")
    with pytest.raises(FileNotFoundError):
        open_index(f"qdrant+{tmp_path}", read_only=True)
    assert [path.name for path in tmp_path.iterdir()] == ["image.png"]


@pytest.mark.parametrize("kind", ["Flat", "HNSW16"])
def test_memory_of_the_process(kind):
    with open_index("qdrant+:memory:", 32, "tiny@1", kind) as index:
        assert len(fill(index)) == 600


def test_no_server():
    with pytest.raises(ConnectionError, match=r"127\.0\.0\.1:1"):
        open_index("qdrant+http://127.0.0.1:1", 32, "tiny@1", timeout=1.0)


def test_filters_leave_out_what_qdrant_cannot_tell():
    from modeling_unimur.index.qdrant import qdrant_filter

    assert qdrant_filter(None, conditions({"f": {"gte": "a"}, 'a"b': 1, "g": [2**60, "x"]})) is None
    assert len(qdrant_filter("text", conditions({"f": {"gte": 1, "lt": 5}, "g": ["x", True, 2]})).must) == 4
