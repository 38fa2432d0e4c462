"""What is Qdrant's own: addresses, memory, one client a folder, filters that it cannot express."""

from __future__ import annotations

import pytest

from modeling_unimur.index import open_index
from modeling_unimur.memory_index import RetrievalIndex, conditions
from tests.hits import assert_same_answers
from tests.index.vectors import jittered

pytest.importorskip("qdrant_client")
pytestmark = pytest.mark.slow
CLOUD = jittered(600)
IDS = [str(n) for n in range(600)]
PAYLOADS = [{"n": n, 'a "quoted" key': n % 3, "dotted.key": n % 5, "name": f"n{n % 7}"} for n in range(600)]


def fill(index):
    index.add("text", IDS[:300], CLOUD[:300], PAYLOADS[:300])
    index.add("image", IDS[300:], CLOUD[300:], PAYLOADS[300:])
    return index


@pytest.mark.parametrize("kind", ["Flat", "HNSW16"])
@pytest.mark.parametrize(
    "where", [None, {'a "quoted" key': 1}, {"dotted.key": [2, 3]}, {"name": {"gte": "n5"}, "n": {"lt": 400}}]
)
def test_ranks_as_the_index_in_memory(kind, where):
    plain = fill(RetrievalIndex(32, "tiny@1"))
    with open_index("qdrant+:memory:", 32, "tiny@1", kind) as index:
        fill(index)
        for one in ("text", "image", None):
            asked = {"top_k": 20, "kind": one, "where": where}
            assert_same_answers(index.search(CLOUD[:20], **asked), plain.search(CLOUD[:20], **asked))


def test_a_folder_has_one_client(tmp_path):
    place = f"qdrant+{tmp_path}/items"
    with open_index(place, 32, "tiny@1") as index:
        fill(index)
        with pytest.raises(BlockingIOError, match="items"):
            open_index(place)
    index.close()  # again
    with open_index(place, read_only=True) as index:
        assert len(index) == 600


def test_two_collections_in_one_folder(tmp_path):
    place = f"qdrant+{tmp_path}/items"
    with open_index(place, 32, "tiny@1", collection="a") as index:
        fill(index)
    with open_index(place, 16, "tiny@2", collection="b") as index:
        assert len(index) == 0
        index.drop()
    with pytest.raises(FileNotFoundError, match="index 'b'"):
        open_index(place, collection="b")


def test_what_is_no_index(tmp_path):
    with pytest.raises(FileNotFoundError, match="no index"):
        open_index(f"qdrant+{tmp_path}/absent", 32, "tiny@1", read_only=True)
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="file"):
        open_index(f"qdrant+{tmp_path}/file", 32, "tiny@1")
    with pytest.raises(ValueError, match="'HNSW32'"):
        open_index("qdrant+:memory:", 32, "tiny@1", "IVF8,Flat")
    with pytest.raises(ConnectionError, match=r"127\.0\.0\.1:1"):
        open_index("qdrant+http://127.0.0.1:1", 32, "tiny@1", timeout=1.0)


def test_filters_leave_out_what_qdrant_cannot_tell():
    from modeling_unimur.index.qdrant import qdrant_filter

    assert qdrant_filter(None, conditions({"f": {"gte": "a"}, 'a"b': 1, "g": [2**60, "x"]})) is None
    assert len(qdrant_filter("text", conditions({"f": {"gte": 1, "lt": 5}, "g": ["x", True, 2]})).must) == 4
