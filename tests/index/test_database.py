"""What all databases share beside `test_every_backend`: kinds of index, collections, places that hold none, and the
rankings of an index in memory under filters that no database can express."""

from __future__ import annotations

import pytest

from modeling_unimur.index import open_index
from modeling_unimur.memory_index import RetrievalIndex
from tests.hits import assert_same_answers
from tests.index.databases import DATABASES, database
from tests.index.vectors import jittered

CLOUD = jittered(600)
IDS = [str(n) for n in range(600)]
PAYLOADS = [{"n": n, 'a "quoted" key': n % 3, "dotted.key": n % 5, "name": f"n{n % 7}"} for n in range(600)]
# Kinds that a database takes, and one that it does not.
KINDS = {
    "milvus": (["HNSW16", "IVF8,Flat", "IVF8,SQ8"], "LSH"),
    "qdrant": (["HNSW16"], "IVF8,Flat"),
    "lancedb": (["HNSW16", "IVF8,Flat", "IVF8,SQ8", "IVF8,PQ16"], "LSH"),
}


@pytest.fixture(params=DATABASES)
def name(request):
    return request.param


@pytest.fixture
def uri(name, tmp_path):
    return database(name, tmp_path)


def fill(index):
    index.add("text", IDS[:300], CLOUD[:300], PAYLOADS[:300])
    index.add("image", IDS[300:], CLOUD[300:], PAYLOADS[300:])
    return index


def test_ranks_as_the_index_in_memory(uri):
    plain = fill(RetrievalIndex(32, "tiny@1"))
    conditions = [None, {'a "quoted" key': 1}, {"dotted.key": [2, 3]}, {"name": {"gte": "n5"}, "n": {"lt": 400}}]
    with open_index(uri, 32, "tiny@1") as index:
        fill(index)
        for where in conditions:
            for kind in ("text", "image", None):
                asked = {"top_k": 20, "kind": kind, "where": where}
                assert_same_answers(index.search(CLOUD[:20], **asked), plain.search(CLOUD[:20], **asked))


def test_approximate_kinds(name, uri, tmp_path):
    kinds, unknown = KINDS[name]
    for number, kind in enumerate(kinds):
        place = uri.replace("items", f"items{number}")
        with open_index(place, 32, "tiny@1", kind) as index:
            index.add("image", IDS[:20], CLOUD[:20])
            index.save()  # too few rows for cells
            index.add("image", IDS[:500], CLOUD[:500])
            index.save()
            index.add("image", IDS[500:], CLOUD[500:])  # found before they are indexed
            for first in (0, 550):
                hits = index.search(CLOUD[first : first + 50], 1, "image")
                assert sum(hit[0].id == item for hit, item in zip(hits, IDS[first:], strict=False)) >= 45
        with open_index(place, index=kind) as index:
            index.save()
            assert len(index) == 600
    with pytest.raises(ValueError, match="'Flat'"):
        open_index(uri, 32, "tiny@1", unknown)


def test_two_collections_in_one_place(uri):
    with open_index(uri, 32, "tiny@1", collection="a") as index:
        fill(index)
    with open_index(uri, 16, "tiny@2", collection="b") as index:
        assert len(index) == 0
    with open_index(uri, collection="a") as index:
        assert len(index) > 0
    with pytest.raises(FileNotFoundError, match="index 'c'"):
        open_index(uri, collection="c")


def test_what_is_no_index(name, uri, tmp_path):
    with pytest.raises(FileNotFoundError, match="no index"):
        open_index(uri, 32, "tiny@1", read_only=True)
    assert not list(tmp_path.iterdir())
    (tmp_path / uri.partition(f"{tmp_path}/")[2]).write_text("no database")
    with pytest.raises(ValueError, match=r"file|open"):
        open_index(uri, 32, "tiny@1")
