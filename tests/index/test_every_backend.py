"""What every index does, whichever keeps it."""

import numpy as np
import pytest
import torch

from modeling_unimur.index import Added, is_database, open_index
from modeling_unimur.index.base import database_of, is_in_memory, local_path
from modeling_unimur.index.precision import FLOAT32, precision_of
from tests.hits import assert_same_answers
from tests.index.vectors import random_units

TEXTS, IMAGES = random_units(40, seed=1), random_units(20, seed=2)
QUERIES = random_units(5, seed=3)
# Whatever an id may hold.
TEXT_IDS = [f"te\"x't\\ {{{n}}} ü" for n in range(40)]
IMAGE_IDS = [f"{n}.png" for n in range(20)]
PAYLOADS = [{"licence": 'cc"0\\' if n % 2 else "by", "year": 2000 + n, "free": n % 2 == 1} for n in range(40)]


def fill(index):
    assert index.add("text", TEXT_IDS, TEXTS, PAYLOADS) == Added(40, 0)
    assert index.add("image", IMAGE_IDS, IMAGES, [{"path": item} for item in IMAGE_IDS]) == Added(20, 0)
    return index


def best(vectors, ids, query, count):
    scores = vectors @ query
    return [ids[row] for row in np.argsort(-scores)[:count]]


def found(hits):
    return [hit.id for hit in hits]


def assert_best(index, hits, vectors, ids, query, count):
    """Hits are the best, in order; in an index of small vectors, as far as a byte a number tells them apart."""
    expected = best(vectors, ids, query, count)
    if precision_of(index.factory) == FLOAT32:
        assert found(hits) == expected
    rows = dict(zip(ids, vectors, strict=True))
    scores = [[float(rows[item] @ query) for item in some] for some in (found(hits), expected)]
    assert len(set(found(hits))) == len(expected)
    np.testing.assert_allclose(*scores, atol=0.02)
    np.testing.assert_allclose([hit.score for hit in hits], scores[0], atol=0.02)


def test_one_kind_and_both(index):
    fill(index)
    assert (len(index), index.count("text"), index.count("image")) == (60, 40, 20)
    both, ids = np.concatenate([TEXTS, IMAGES]), TEXT_IDS + IMAGE_IDS
    for row, query in enumerate(QUERIES):
        assert_best(index, index.search(QUERIES, 5, "text")[row], TEXTS, TEXT_IDS, query, 5)
        assert_best(index, index.search(QUERIES, 5, "image")[row], IMAGES, IMAGE_IDS, query, 5)
        assert_best(index, index.search(QUERIES, 9)[row], both, ids, query, 9)
    hit = index.search(QUERIES[:1], 1, "image")[0][0]
    assert (hit.kind, hit.payload) == ("image", {"path": hit.id})
    tolerance = 1e-6 if precision_of(index.factory) == FLOAT32 else 0.02
    assert hit.score == pytest.approx(float((IMAGES @ QUERIES[0]).max()), abs=tolerance)
    assert len(index.search(QUERIES, 500)[0]) == 60


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        ({"licence": 'cc"0\\'}, range(1, 40, 2)),
        ({"licence": ["by", "none"]}, range(0, 40, 2)),
        ({"year": {"gte": 2010, "lt": 2013}}, range(10, 13)),
        ({"year": [2003, 2008], "free": True}, [3]),
        ({"free": False, "year": {"gt": 2037}}, [38]),
        ({"year": {"lte": 2001}}, [0, 1]),
        ({"year": "2003"}, []),
        ({"author": "nobody"}, []),
    ],
)
def test_filters(index, where, rows):
    fill(index)
    rows = list(rows)
    for kind in ("text", None):  # pictures have none of these fields
        for query, hits in zip(QUERIES, index.search(QUERIES, 6, kind, where), strict=True):
            assert_best(index, hits, TEXTS[rows], [TEXT_IDS[row] for row in rows], query, 6)


def test_replacing_is_counted(index):
    fill(index)
    assert index.add("text", [TEXT_IDS[3], "new", "new"], QUERIES[[0, 1, 2]], [{"n": n} for n in range(3)]) == Added(
        1, 2
    )
    assert len(index) == 61
    assert [(hit.id, hit.payload) for hit in index.search(QUERIES[:1], 1)[0]] == [(TEXT_IDS[3], {"n": 0})]
    assert [(hit.id, hit.payload) for hit in index.search(QUERIES[2:3], 1)[0]] == [("new", {"n": 2})]
    # The same id of another kind is another candidate.
    assert index.add("image", ["new"], QUERIES[4:5]) == Added(1, 0)
    assert ("image", "new") in index
    assert ("image", TEXT_IDS[3]) not in index


def test_removing(index):
    fill(index)
    assert index.remove("text", TEXT_IDS[:10] + TEXT_IDS[39:] + TEXT_IDS[:1]) == 11
    assert (len(index), index.count("text")) == (49, 29)
    for query, hits in zip(QUERIES, index.search(QUERIES, 40, "text"), strict=True):
        assert_best(index, hits, TEXTS[10:39], TEXT_IDS[10:39], query, 29)
    with pytest.raises(ValueError, match=r"2 of 3 .*'a', 'b'"):
        index.remove("text", ["a", TEXT_IDS[20], "b"])
    assert ("text", TEXT_IDS[20]) in index
    assert index.add("text", TEXT_IDS[:1], TEXTS[:1]) == Added(1, 0)


def test_saved_and_opened_again(place):
    with open_index(**place) as index:
        fill(index)
        index.remove("image", IMAGE_IDS[:5])
        expected = index.search(QUERIES, 30)
        index.save()
        assert_same_answers(index.search(QUERIES, 30), expected)
    with open_index(**place) as index:
        assert (len(index), index.width, index.model) == (55, 16, "tiny@1")
        assert_same_answers(index.search(QUERIES, 30), expected)
        index.add("image", IMAGE_IDS[:1], QUERIES[:1])
        assert found(index.search(QUERIES[:1], 1)[0]) == IMAGE_IDS[:1]


def test_another_model_or_width_is_refused(place):
    with open_index(**place) as index:
        fill(index).save()
    with pytest.raises(ValueError, match=r"'tiny@1'.*'tiny@2'"):
        open_index(**{**place, "model": "tiny@2"})
    with pytest.raises(ValueError, match=r"16 numbers.*32"):
        open_index(**{**place, "width": 32})
    with pytest.raises(ValueError, match="build another"):
        open_index(**{**place, "index": "HNSW8", "precision": None})
    with pytest.raises(ValueError, match="binary"):
        open_index(**{**place, "index": None, "precision": "int8" if place.get("precision") == "binary" else "binary"})


def test_wrong_input_changes_nothing(index):
    fill(index)
    nan = QUERIES[:2].copy()
    nan[1, 3] = np.nan
    wrong = [
        (("sound", ["x"], QUERIES[:1]), "kind must"),
        (("text", ["x"], QUERIES[:1, :8]), r"\(1, 8\)"),
        (("text", ["x", "y"], nan), "Vector 1 .*NaN"),
        (("text", ["x"], 3 * QUERIES[:1]), "Vector 0 .*3"),
        (("text", ["x"], 0 * QUERIES[:1]), "length 0"),
        (("text", ["x"], QUERIES[:2]), "1 ids, 2 vectors"),
        (("text", [7], QUERIES[:1]), "An id .*7"),
        (("text", ["x"], QUERIES[:1], ["a"]), "is a dict"),
    ]
    if not index.keeps_objects:
        wrong += [
            (("text", ["x"], QUERIES[:1], [{"a": {1}}]), "JSON"),
            (("text", ["x"], QUERIES[:1], [{"a": "b" * 70_000}]), "larger than"),
        ]
    for arguments, message in wrong:
        with pytest.raises(ValueError, match=message):
            index.add(*arguments)
    for arguments, message in [
        ((nan,), "NaN"),
        ((2 * QUERIES,), "norm"),
        ((QUERIES, 0), "top_k"),
        ((QUERIES, 5, "sound"), "kind must"),
        ((QUERIES, 5, None, {"a": None}), "string, number or boolean"),
        ((QUERIES, 5, None, {"a": {"near": 3}}), "range such as"),
        ((QUERIES, 5, None, {"a": []}), "empty list"),
    ]:
        with pytest.raises(ValueError, match=message):
            index.search(*arguments)
    assert len(index) == 60


def test_tensors_and_nothing(index):
    assert index.search(QUERIES, 3) == [[]] * 5
    assert index.search(QUERIES, 3, "text", {"a": 1}) == [[]] * 5
    assert index.add("text", [], QUERIES[:0]) == Added(0, 0)
    assert index.remove("text", []) == 0
    index.add("text", TEXT_IDS, torch.from_numpy(TEXTS))
    assert index.search(QUERIES[:0]) == []
    assert found(index.search(torch.from_numpy(QUERIES).bfloat16(), 1)[0]) == best(TEXTS, TEXT_IDS, QUERIES[0], 1)


def test_reading_only(place):
    with pytest.raises(FileNotFoundError, match="no index"):
        open_index(**place, read_only=True)
    with open_index(**place) as index:
        fill(index).save()
    with open_index(**place, read_only=True) as index:
        assert len(index.search(QUERIES, 3)[0]) == 3
        with pytest.raises(PermissionError, match="for reading"):
            index.remove("text", TEXT_IDS[:1])
        with pytest.raises(PermissionError, match="for reading"):
            index.add("text", ["x"], QUERIES[:1])


@pytest.mark.parametrize(
    ("uri", "database", "local"),
    [
        ("items", None, "items"),
        ("c++/items", None, "c++/items"),
        ("items.db", ("milvus", "items.db"), "items.db"),
        ("localhost:19530", ("milvus", "localhost:19530"), None),
        ("https://host", ("milvus", "https://host"), None),
        ("qdrant:6333", ("milvus", "qdrant:6333"), None),
        ("qdrant+/data/items", ("qdrant", "/data/items"), "/data/items"),
        ("qdrant+:memory:", ("qdrant", ":memory:"), None),
        ("qdrant+http://host:6333", ("qdrant", "http://host:6333"), None),
        ("lancedb+items", ("lancedb", "items"), "items"),
        ("lancedb+s3://bucket/items", ("lancedb", "s3://bucket/items"), None),
        ("lancedb+memory://", ("lancedb", "memory://"), None),
    ],
)
def test_addresses(uri, database, local):
    assert (database_of(uri), local_path(uri), is_database(uri)) == (database, local, database is not None)


def test_an_address_may_lie_in_the_user_s_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert database_of("lancedb+~/items") == ("lancedb", "/home/me/items")


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("qdrnt+items", "qdrant[+]PLACE"),
        ("Qdrant+items", "qdrant[+]PLACE"),
        ("lancedb:items", "lancedb[+]PLACE"),
        ("lancedb://items", "lancedb[+]PLACE"),
        ("qdrant+", "qdrant[+]FOLDER"),
        ("lancedb+", "lancedb[+]FOLDER"),
        ("qdrant+localhost:6333", "qdrant[+]http://localhost:6333"),
    ],
)
def test_addresses_with_a_typing_error(uri, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=told):
        open_index(uri, 16, "tiny@1")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("uri", "memory"), [("qdrant+:memory:", True), ("lancedb+memory://", True), ("items", False)])
def test_indexes_in_memory(uri, memory):
    assert is_in_memory(uri) == memory
