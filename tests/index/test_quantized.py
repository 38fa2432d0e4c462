"""Small vectors in memory: codes, searches beside numpy's, and files."""

import json

import numpy as np
import pytest

from benchmarks.index import bytes_of
from modeling_unimur.index import open_index
from modeling_unimur.index.quantized import (
    QuantizedIndex,
    decode_int8,
    encode_int8,
    hamming_distances,
    inverse_lengths,
    pack_signs,
    unpack_signs,
)
from modeling_unimur.memory_index import RetrievalIndex
from tests.index.test_durability import resign
from tests.index.vectors import jittered, random_units

WIDTH, MODEL = 96, "tiny@1"
VECTORS, QUERIES = jittered(5000, WIDTH, noise=0.8), jittered(6, WIDTH, noise=0.8, seed=3)
IDS = [f"{row}.png" for row in range(len(VECTORS))]


def filled(precision: str, **options) -> QuantizedIndex:
    index = QuantizedIndex(WIDTH, MODEL, precision, **options)
    index.add("image", IDS, VECTORS, [{"even": row % 2 == 0} for row in range(len(IDS))])
    return index


def names(hits):
    return [[hit.id for hit in row] for row in hits]


def recall(found, expected):
    return np.mean([len(set(mine) & set(theirs)) / len(theirs) for mine, theirs in zip(found, expected, strict=True)])


# -- codes ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("width", [1, 7, 64, 100, 384])
def test_codes(width):
    vectors = random_units(70, width, seed=1)
    codes = encode_int8(vectors)
    assert codes.dtype == np.int8
    assert (np.abs(codes).max(axis=1) == 127).all()
    decoded = decode_int8(codes)
    np.testing.assert_allclose(np.linalg.norm(decoded, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(decoded, vectors, atol=1.5 / 127 * np.abs(vectors).max())
    np.testing.assert_allclose(inverse_lengths(codes), 1 / np.linalg.norm(codes.astype(float), axis=1), rtol=1e-6)
    np.testing.assert_array_equal(encode_int8(decoded), codes)
    signs = pack_signs(vectors)
    np.testing.assert_array_equal(np.ascontiguousarray(signs.T).view(np.uint8)[:, : -(-width // 8)],
                                  np.packbits(vectors > 0, axis=1))  # fmt: skip
    np.testing.assert_array_equal(unpack_signs(signs, width), np.where(vectors > 0, 1, -1))


@pytest.mark.parametrize(("rows", "width"), [(1, 8), (300, 100), (70_000, 64)])
def test_hamming_distances_are_those_of_unpacked_signs(rows, width):
    vectors, query = random_units(rows, width, seed=1), random_units(1, width, seed=2)
    signs, own = pack_signs(vectors), pack_signs(query)
    expected = (width - unpack_signs(signs, width) @ unpack_signs(own, width)[0]) / 2
    np.testing.assert_array_equal(hamming_distances(signs, own[:, 0]), expected)


# -- searches ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("top_k", [1, 10, 5000])
@pytest.mark.parametrize("where", [None, {"even": True}])
def test_int8_scores_are_those_of_numpy(where, top_k):
    rows = np.arange(0, len(VECTORS), 1 if where is None else 2)
    expected = QUERIES @ decode_int8(encode_int8(VECTORS[rows])).T
    for scores, hits in zip(expected, filled("int8").search(QUERIES, top_k, where=where), strict=True):
        best = np.argsort(-scores)[:top_k]
        np.testing.assert_allclose([hit.score for hit in hits], scores[best], atol=1e-6)
        mine = {hit.id: hit.score for hit in hits}
        theirs = {IDS[rows[row]]: float(scores[row]) for row in best}
        assert len(mine.keys() & theirs.keys()) >= len(best) - 1  # equal scores may change places


@pytest.mark.parametrize("where", [None, {"even": True}])
def test_binary_ranks_by_signs_and_then_by_codes(where):
    rows = np.arange(0, len(VECTORS), 1 if where is None else 2)
    codes = encode_int8(VECTORS[rows])
    signs = np.where(codes > 0, 1.0, -1.0)
    hamming = (signs[None] != np.where(QUERIES > 0, 1, -1)[:, None]).sum(axis=2)
    multiplier = 150  # every row is near enough by Hamming distance
    found = filled("binary", rescore_multiplier=multiplier).search(QUERIES, 10, where=where)
    for query, hits in zip(QUERIES, found, strict=True):
        near = np.argsort(-(signs @ query), kind="stable")[: 10 * multiplier]
        scores = decode_int8(codes[near]) @ query
        best = np.argsort(-scores)[:10]
        assert [hit.id for hit in hits] == [IDS[rows[near[at]]] for at in best]
        np.testing.assert_allclose([hit.score for hit in hits], scores[best], atol=1e-6)
    multiplier, places = 2, {IDS[row]: place for place, row in enumerate(rows)}
    found = filled("binary", rescore_multiplier=multiplier).search(QUERIES, 10, where=where)
    for distances, hits in zip(hamming, found, strict=True):
        farthest = np.sort(distances)[4 * multiplier * 10 - 1]
        assert all(distances[places[hit.id]] <= farthest for hit in hits)


def test_rescoring_every_row_is_int8():
    every = filled("binary", rescore_multiplier=len(VECTORS)).search(QUERIES, 20)
    for mine, theirs in zip(every, filled("int8").search(QUERIES, 20), strict=True):
        np.testing.assert_allclose([hit.score for hit in mine], [hit.score for hit in theirs], atol=1e-6)


def test_recall():
    exact = RetrievalIndex(WIDTH, MODEL)
    exact.add("image", IDS, VECTORS)
    expected = names(exact.search(QUERIES, 10))
    assert recall(names(filled("int8").search(QUERIES, 10)), expected) >= 0.95
    index = filled("binary", rescore_multiplier=1)
    few = recall(names(index.search(QUERIES, 10)), expected)
    index.tune(32)
    assert few < recall(names(index.search(QUERIES, 10)), expected) >= 0.95
    for wrong in (0, -1, 2.5, True):
        with pytest.raises(ValueError, match="rescore_multiplier"):
            index.tune(wrong)


def test_vectors_come_back():
    index = filled("int8")
    (hit,) = index.search(VECTORS[:1], 1, with_vectors=True)[0]
    assert hit.id == IDS[0]
    np.testing.assert_array_equal(hit.vector, decode_int8(encode_int8(VECTORS[:1]))[0])


# -- memory and files -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("precision", "in_memory", "mapped"), [("int8", WIDTH + 4, 0), ("binary", 8 * -(-WIDTH // 64), WIDTH)]
)
def test_bytes_of_a_vector(tmp_path, precision, in_memory, mapped):
    with open_index(tmp_path / "index", WIDTH, MODEL, "memory", precision=precision) as index:
        index.add("image", IDS, VECTORS)
        if precision == "binary":
            assert bytes_of(index) == (len(IDS) * (in_memory + mapped), 0)  # until they are saved
        index.save()
        assert bytes_of(index) == (len(IDS) * in_memory, len(IDS) * mapped)
    with open_index(tmp_path / "index", read_only=True) as index:
        assert bytes_of(index) == (len(IDS) * in_memory, len(IDS) * mapped)
    about = json.loads(next((tmp_path / "index").glob("v*/index.json")).read_text(encoding="utf-8"))
    assert (about["precision"], about["width"]) == (precision, WIDTH)


@pytest.mark.parametrize("precision", ["int8", "binary"])
def test_changes_of_a_saved_index(tmp_path, precision):
    """Those of mapped codes stay in memory until `save`, and readers of the version before see none of them."""
    with open_index(tmp_path / "index", WIDTH, MODEL, "memory", precision=precision) as index:
        index.add("image", IDS[:3000], VECTORS[:3000])
        index.save()
    before = open_index(tmp_path / "index", read_only=True)
    expected = names(before.search(QUERIES, 20))
    index = open_index(tmp_path / "index")
    for _ in range(2):
        index.search(QUERIES, 5)
        index.add("image", [*IDS[3000:], IDS[7]], np.concatenate([VECTORS[3000:], VECTORS[:1]]))
        index.remove("image", IDS[:7])
        index.add("image", IDS[1:7], VECTORS[1:7])
        index.add("image", [IDS[0]], VECTORS[7:8])
    again = QuantizedIndex(WIDTH, MODEL, precision)
    again.add("image", [*IDS[1:7], IDS[0], IDS[7], *IDS[8:]],
              np.concatenate([VECTORS[1:7], VECTORS[7:8], VECTORS[:1], VECTORS[8:]]))  # fmt: skip
    wanted = names(again.search(QUERIES, 20))
    assert recall(names(index.search(QUERIES, 20)), wanted) > 0.99  # equal distances may change places
    assert names(before.search(QUERIES, 20)) == expected
    index.save()
    assert recall(names(index.search(QUERIES, 20)), wanted) > 0.99
    assert before.refresh()
    assert recall(names(before.search(QUERIES, 20)), wanted) > 0.99


def zero_row(codes):
    codes[3] = 0
    return codes


@pytest.mark.parametrize("precision", ["int8", "binary"])
@pytest.mark.parametrize(
    "damage", [zero_row, lambda codes: codes[1:], lambda codes: codes.astype(np.float32), lambda codes: codes[:, 1:]]
)
def test_what_no_save_wrote_is_refused(tmp_path, precision, damage):
    filled(precision).save(tmp_path / "index")
    resign(tmp_path / "index", lambda version: np.save(version / "image.npy", damage(np.load(version / "image.npy"))))
    with pytest.raises(ValueError, match="damaged"):
        open_index(tmp_path / "index")
