"""What is FAISS' own: equality with the flat index, approximate kinds, tombstones."""

import json
import subprocess
import sys

import numpy as np
import pytest

from modeling_unimur import RetrievalIndex
from modeling_unimur.index import open_index
from modeling_unimur.index.faiss import FaissIndex
from tests.hits import assert_same_answers
from tests.index.vectors import jittered, random_units, unit

IDS = [f"t{n}" for n in range(3000)]
CLOUD = jittered(3000)
QUERIES = unit(CLOUD[:64] + 0.3 * random_units(64, 32, seed=5))


def test_exact_is_the_flat_index():
    flat, exact = RetrievalIndex(), FaissIndex(32, "tiny@1")
    for kind, part in (("text", slice(0, 2000)), ("image", slice(2000, 3000))):
        flat.add(kind, IDS[part], CLOUD[part], [{kind: item} for item in IDS[part]])
        exact.add(kind, IDS[part], CLOUD[part], [{kind: item} for item in IDS[part]])
    for kind in ("text", "image", None):
        pairs = zip(flat.search(QUERIES, 10, kind), exact.search(QUERIES, 10, kind), strict=True)
        for theirs, ours in pairs:
            assert [(hit.id, hit.kind, hit.payload) for hit in ours] == [
                (hit.id, hit.kind, hit.payload) for hit in theirs
            ]
            assert [hit.score for hit in ours] == pytest.approx([hit.score for hit in theirs], abs=1e-6)


def recall(index, top_k=10, rows=slice(None), **arguments):
    truth = np.argsort(-(QUERIES @ CLOUD[rows].T), axis=1)[:, :top_k]
    ids = np.array(IDS)[rows]
    found = index.search(QUERIES, top_k, **arguments)
    pairs = zip(found, truth, strict=True)
    return np.mean([len({hit.id for hit in hits} & set(ids[best])) / top_k for hits, best in pairs])


@pytest.mark.parametrize(
    ("factory", "bound"),
    [("HNSW32", 0.97), ("IVF8,Flat", 0.97), ("IVF8,SQ8,RFlat", 0.97), ("PCA24,IVF8,SQ8", 0.5), ("IVF8,PQ8x4", 0.1)],
)
def test_approximate_kinds(factory, bound, tmp_path):
    index = FaissIndex(32, "tiny@1", factory, nprobe=6)
    index.add("text", IDS, CLOUD, [{"even": n % 2 == 0, "rare": n % 20 == 0} for n in range(3000)])
    assert recall(index) >= bound
    assert recall(index, rows=slice(0, None, 2), where={"even": True}) >= bound
    assert recall(index, rows=slice(0, None, 20), where={"rare": True}) >= bound
    index.remove("text", IDS[::3])
    left = np.arange(3000) % 3 != 0
    assert index.tombstones == (0 if factory == "Flat" else 1000)
    assert recall(index, rows=left) >= bound
    index.save(tmp_path / "kept", compact=False)
    index.close()
    again = FaissIndex.load(tmp_path / "kept")
    assert (again.tombstones, len(again)) == (1000, 2000)
    assert_same_answers(again.search(QUERIES, 5), index.search(QUERIES, 5))
    again.save()
    assert (again.tombstones, len(again)) == (0, 2000)
    assert recall(again, rows=left) >= bound
    again.add("text", IDS[:1], CLOUD[:1])
    again.save()
    again.close()
    last = FaissIndex.load(tmp_path / "kept", read_only=True)
    assert len(last) == 2001
    assert_same_answers(last.search(QUERIES, 5), again.search(QUERIES, 5))


def test_removed_places_are_filled():
    index = FaissIndex(32, "tiny@1")
    index.add("text", IDS, CLOUD)
    index.remove("text", IDS[::2] + IDS[2995:])
    assert index.tombstones == 0
    assert recall(index, rows=np.array([n % 2 == 1 and n < 2995 for n in range(3000)])) == 1


def test_training_apart():
    index = FaissIndex(32, "tiny@1", "IVF64,Flat", nprobe=64)
    with pytest.raises(ValueError, match="3 vectors"):
        index.add("text", IDS[:3], CLOUD[:3])
    index.train("text", CLOUD)
    index.add("text", IDS[:3], CLOUD[:3])
    assert index.search(CLOUD[:1], 1)[0][0].id == "t0"
    with pytest.raises(ValueError, match="train before"):
        index.train("text", CLOUD)


@pytest.mark.parametrize("factory", ["Flatt", "IDMap,Flat", "LSH", "PQ8x4"])
def test_descriptions_that_do_not_do(factory):
    with pytest.raises(ValueError, match=factory):
        FaissIndex(32, "tiny@1", factory)


def test_searching_imports_no_torch(tmp_path):
    with open_index(tmp_path / "index", 32, "tiny@1") as index:
        index.add("text", IDS[:5], CLOUD[:5])
        index.save()
    code = (
        "import sys, json, numpy as np; from modeling_unimur.index import open_index\n"
        f"index = open_index({str(tmp_path / 'index')!r}, read_only=True)\n"
        "hits = index.search(np.eye(32, dtype=np.float32)[:1], 5)\n"
        "print(json.dumps([len(hits[0]), 'torch' in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [5, False]


@pytest.mark.parametrize(
    ("module", "extra", "uri"),
    [
        ("faiss", "faiss", "{}/folder"),
        ("pymilvus", "milvus", "{}/items.db"),
        ("qdrant_client", "qdrant", "qdrant+{}/items"),
        ("lancedb", "lancedb", "lancedb+{}/items"),
    ],
)
def test_missing_library_names_its_extra(module, extra, uri, tmp_path):
    code = (
        f"import sys; sys.modules[{module!r}] = None; from modeling_unimur.index import open_index\n"
        f"open_index({uri.format(tmp_path)!r}, 8, 'tiny@1')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"`pip install unimur[{extra}]`" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("factory", ["HNSW16", "HNSW16,SQ8", "PCA24,HNSW16", "IVF8,Flat", "IVF8,SQ8,RFlat"])
@pytest.mark.parametrize("left", [1, 5, 40, 400])
def test_what_is_left_is_found_before_it_is_saved(factory, left):
    index = FaissIndex(32, "tiny@1", factory, ef_search=16, nprobe=1)
    if not index.parts["text"].index.is_trained:
        index.train("text", CLOUD[:400])
    index.add("text", IDS, CLOUD, [{"last": n >= 3000 - left} for n in range(3000)])
    marked = index.search(QUERIES, 10, where={"last": True})
    index.remove("text", IDS[:-left])
    assert index.tombstones == 3000 - left
    for hits in (marked, index.search(QUERIES, 10)):
        assert all(len({hit.id for hit in row}) == min(10, left) for row in hits)
        assert all(int(hit.id[1:]) >= 3000 - left for row in hits for hit in row)
    if "PCA" not in factory and "IVF" not in factory:
        assert recall(index, min(10, left), slice(3000 - left, None)) >= 0.97


def test_codes_that_take_no_selector():
    """FAISS' product quantizer cannot be told which rows to look at: its graph is walked through."""
    index = FaissIndex(32, "tiny@1", "HNSW16_PQ4x4")
    index.add("text", IDS[:300], CLOUD[:300])
    index.remove("text", IDS[:297])
    assert [{hit.id for hit in hits} for hits in index.search(QUERIES[:8], 5)] == [set(IDS[297:300])] * 8


def test_replaced_over_and_over():
    """Each replacement leaves a tombstone."""
    index = FaissIndex(32, "tiny@1", "HNSW16")
    for _ in range(20):
        index.add("text", IDS[:50], CLOUD[:50])
    assert index.tombstones == 19 * 50
    assert [hits[0].id for hits in index.search(CLOUD[:50], 1)] == IDS[:50]
    assert len(index.search(CLOUD[:1], 60)[0]) == 50


@pytest.mark.parametrize("factory", ["SQ8", "HNSW8_SQ8"])
def test_bytes_of_numbers_do_not_hang_on_the_first_vector(factory):
    vectors = random_units(60, 16)
    index = FaissIndex(16, "tiny@1", factory)
    for number, vector in enumerate(vectors):
        index.add("text", [str(number)], vector[None])
    for vector, (hit, *others) in zip(vectors, index.search(vectors, 60), strict=True):
        assert hit.score == pytest.approx(1, abs=0.03)
        scores = np.array([hit.score for hit in (hit, *others)])
        exact = np.array([vectors[int(hit.id)] @ vector for hit in (hit, *others)])
        np.testing.assert_allclose(scores, exact, atol=0.05)
