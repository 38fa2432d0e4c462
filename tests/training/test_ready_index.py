"""Reading the vectors and texts of somebody else's index."""

import json
import sys

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from modeling_unimur import RetrievalIndex
from modeling_unimur.training.precomputed import ReadyVectors, join, load_items, load_vectors

VECTORS = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)


def lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int8])
def test_npy(dtype, tmp_path):
    values = (VECTORS * 10).astype(dtype)
    np.save(tmp_path / "v.npy", values)
    found = load_vectors(tmp_path / "v.npy")
    np.testing.assert_array_equal(found.values, values.astype(np.float32))
    assert found.values.dtype == np.float32
    assert found.ids is None
    assert not found.normalised


@pytest.mark.parametrize("kind", ["list", "fixed", "large"])
def test_parquet(kind, tmp_path):
    types = {"list": pa.list_(pa.float32()), "fixed": pa.list_(pa.float32(), 8), "large": pa.large_list(pa.float64())}
    columns = {
        "id": list(range(40)),
        "text": [f"t{n}" for n in range(40)],
        "vector": pa.array(VECTORS.tolist(), types[kind]),
    }
    pq.write_table(pa.table(columns), tmp_path / "v.parquet", row_group_size=7)
    found = load_vectors(tmp_path / "v.parquet")
    np.testing.assert_allclose(found.values, VECTORS)
    items = load_items(tmp_path / "v.parquet")
    assert items.ids == found.ids == [str(n) for n in range(40)]
    assert items.texts[3] == "t3"


def test_parquet_with_several_columns_of_vectors(tmp_path):
    both = {"a": VECTORS.tolist(), "b": (2 * VECTORS).tolist()}
    pq.write_table(pa.table(both), tmp_path / "v.parquet")
    np.testing.assert_allclose(load_vectors(tmp_path / "v.parquet", "b").values, 2 * VECTORS)
    for column in (None, "c"):
        with pytest.raises(ValueError, match=r"\['a', 'b'\]"):
            load_vectors(tmp_path / "v.parquet", column)
    for bad in ([[1.0, 2.0], [1.0]], [[1.0, 2.0], None], [None, [1.0]]):
        pq.write_table(pa.table({"a": pa.array(bad, pa.list_(pa.float32()))}), tmp_path / "bad.parquet")
        with pytest.raises(ValueError, match=r"row [01]"):
            load_vectors(tmp_path / "bad.parquet")


def faiss_index(name):
    if name == "id_map":
        index = faiss.IndexIDMap2(faiss.IndexFlatIP(8))
        index.add_with_ids(VECTORS, np.arange(100, 140))
        return index
    index = faiss.index_factory(8, name, faiss.METRIC_INNER_PRODUCT)
    index.train(VECTORS)
    index.add(VECTORS)
    return index


@pytest.mark.parametrize(
    ("name", "exact"), [("Flat", True), ("id_map", True), ("IVF4,Flat", True), ("HNSW8", True), ("SQ8", False)]
)
def test_faiss(name, exact, tmp_path):
    index = faiss_index(name)
    faiss.write_index(index, str(tmp_path / "v.faiss"))
    found = load_vectors(tmp_path / "v.faiss")
    np.testing.assert_allclose(found.values, VECTORS, atol=1e-6 if exact else 0.1)
    assert found.metric == "inner_product"
    assert bool(found.note) is not exact
    assert found.ids == ([str(n) for n in range(100, 140)] if name == "id_map" else None)


def test_faiss_with_the_l2_metric(tmp_path):
    index = faiss.IndexFlatL2(8)
    index.add(VECTORS)
    faiss.write_index(index, str(tmp_path / "v.index"))
    assert load_vectors(tmp_path / "v.index").metric == "l2"


@pytest.mark.parametrize(
    ("write", "named"),
    [
        (lambda path: path.with_suffix(".csv").write_text("1,2"), ".csv"),
        (lambda path: np.save(path, np.zeros((0, 4))), "no vector"),
        (lambda path: np.save(path, np.ones(4)), "shape"),
        (lambda path: np.save(path, np.full((2, 2), "x")), "not numbers"),
        (lambda path: np.save(path, np.array([{}], dtype=object), allow_pickle=True), "Python objects"),
        (lambda path: np.save(path, np.array([[1, 2], [np.nan, 1], [1, np.inf]])), "NaN .* row 1"),
        (lambda path: np.save(path, np.zeros((3, 4))), "zeros alone"),
        (lambda path: path.with_suffix(".parquet").write_text("x"), "Parquet"),
        (lambda path: path.with_suffix(".faiss").write_bytes(b"nothing of an index"), "FAISS index"),
        (
            lambda path: faiss.write_index(faiss.IndexFlatL2(4), str(path.with_suffix(".faiss"))),
            "no vector",
        ),
        (
            lambda path: pq.write_table(pa.table({"a": ["x"]}), path.with_suffix(".parquet")),
            "no column",
        ),
    ],
)
def test_bad_vectors(write, named, tmp_path):
    write(tmp_path / "v.npy")
    with pytest.raises(ValueError, match=named):
        load_vectors(next(tmp_path.iterdir()))


def test_missing_files_and_libraries(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="no embeddings"):
        load_vectors(tmp_path / "v.npy")
    with pytest.raises(FileNotFoundError, match="no texts"):
        load_items(tmp_path / "t.txt")
    (tmp_path / "v.faiss").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r"unimur\[faiss\]"):
        load_vectors(tmp_path / "v.faiss")


def test_texts_of_every_form(tmp_path):
    (tmp_path / "t.txt").write_text("one\n\nthree  words   here\n")
    found = load_items(tmp_path / "t.txt")
    assert found.texts == ["one", "", "three words here"]
    assert found.ids == ["0", "1", "2"]
    assert not found.own_ids
    records = [
        {"id": 7, "text": "a cat", "kind": "image", "image": "cat.png"},
        {"id": "x", "text": None, "kind": "image"},
        {"id": "y", "text": "words"},
    ]
    found = load_items(lines(tmp_path / "t.jsonl", records))
    assert found.ids == ["7", "x", "y"]
    assert found.kinds == ["image", "image", "text"]
    assert found.payloads == ["cat.png", "x", "words"]
    assert load_items(["one", "two"], kind="image").kinds == ["image", "image"]


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("", "no item"),
        ("{", "line 1"),
        ("3", "item 0"),
        ('{"text": 3}', "item 0"),
        ('{"text": "x", "kind": "sound"}', "sound"),
        ('{"id": 1, "text": "x"}\n{"id": 1, "text": "y"}', "have the id '1'"),
    ],
)
def test_bad_texts(content, named, tmp_path):
    (tmp_path / "t.jsonl").write_text(content)
    with pytest.raises(ValueError, match=named):
        load_items(tmp_path / "t.jsonl")


def test_other_bad_texts(tmp_path):
    (tmp_path / "t.csv").write_text("x")
    with pytest.raises(ValueError, match=r"\.csv"):
        load_items(tmp_path / "t.csv")
    pq.write_table(pa.table({"words": ["x"]}), tmp_path / "t.parquet")
    with pytest.raises(ValueError, match="`text`"):
        load_items(tmp_path / "t.parquet")
    with pytest.raises(ValueError, match="kind must"):
        load_items(["x"], kind="sound")


def test_texts_go_to_vectors_by_id_or_by_order():
    records = [{"id": name, "text": f"text {name}"} for name in "cab"]
    by_id = join(ReadyVectors(VECTORS[:3], ids=list("abc")), load_items(records))
    assert by_id.items.texts == ["text a", "text b", "text c"]
    by_order = join(ReadyVectors(VECTORS[:3]), load_items(records))
    assert by_order.items.texts == ["text c", "text a", "text b"]
    named = join(ReadyVectors(VECTORS[:3], ids=list("abc")), load_items(["x", "y", "z"]))
    assert named.items.ids == list("abc")
    with pytest.raises(ValueError, match=r"1 ids .*'d'"):
        join(ReadyVectors(VECTORS[:3], ids=list("abd")), load_items(records))


def test_vectors_without_direction_are_left_out_and_counted():
    values = VECTORS[:4].copy()
    values[2] = 0
    found = join(ReadyVectors(values), load_items(["a", "b", "c", "d"]))
    assert found.items.texts == ["a", "b", "d"]
    assert any("1 vectors are zeros" in note for note in found.notes)
    torch.testing.assert_close(found.raw, torch.from_numpy(values[[0, 1, 3]]))
    torch.testing.assert_close(found.vectors.norm(dim=1), torch.ones(3))


def test_normalised_vectors_need_no_note_even_in_half_precision():
    unit = (VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)).astype(np.float16)
    found = join(load_vectors(unit), load_items([f"t{n}" for n in range(40)]))
    assert found.notes == []
    assert found.raw is None


def test_the_written_index_finds_the_nearest(tmp_path):
    items = [{"id": f"i{n}", "text": f"t{n}", "kind": "image" if n % 2 else "text"} for n in range(40)]
    index = join(ReadyVectors(VECTORS), load_items(items)).to_retrieval_index()
    index.save(tmp_path / "index")
    again = RetrievalIndex.load(tmp_path / "index")
    assert (again.count("text"), again.count("image")) == (20, 20)
    unit = torch.nn.functional.normalize(torch.from_numpy(VECTORS), dim=-1)
    for row, hits in enumerate(again.search(unit, top_k=1)):
        assert hits[0].id == f"i{row}"
        assert hits[0].score == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("records", "token"),
    [
        ([{"id": "a", "text": "x"}, {"text": "y"}, {"id": "c", "text": "z"}], "item 1"),
        ([{"id": "a", "text": "x"}, {"id": "b", "text": "y"}, "z"], "item 2"),
        ([{"id": None, "text": "x"}, {"id": "b", "text": "y"}], "item 0"),
        ([{"id": 1, "text": "x"}, {"id": "2", "text": "y"}, {"id": "1", "text": "z"}], "0 and 2"),
        ([{"id": "a", "text": "x"}, {"id": "a", "text": "y"}], "0 and 1"),
        ([{"id": "a", "text": "x"}, {"id": 1.5, "text": "y"}], "item 1"),
        ([{"id": True, "text": "x"}, {"id": "b", "text": "y"}], "item 0"),
    ],
)
def test_all_items_or_none_have_an_id_of_their_own(records, token):
    with pytest.raises(ValueError, match=token):
        load_items(records)


def test_an_id_that_stands_twice_joins_only_in_one_order():
    records = [{"id": "a", "text": "x"}, {"id": "a", "text": "y", "kind": "image"}, {"id": "b", "text": "z"}]
    vectors = np.eye(3, dtype=np.float32)
    assert join(ReadyVectors(vectors, ["a", "a", "b"]), load_items(records)).items.texts == ["x", "y", "z"]
    with pytest.raises(ValueError, match="'a'"):
        join(ReadyVectors(vectors, ["b", "a", "a"]), load_items(records))


def test_a_row_of_a_table_without_an_id_is_an_error(tmp_path):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"id": ["a", None], "vector": [[1.0, 0.0], [0.0, 1.0]]}), tmp_path / "v.parquet")
    with pytest.raises(ValueError, match="row 1"):
        load_vectors(tmp_path / "v.parquet")
