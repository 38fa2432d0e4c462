"""What is the flat index' own: no width or model needed, objects as payloads, no lock held; see tests/index."""

import json
import stat
import warnings
from pathlib import Path

import numpy as np
import pytest

from modeling_unimur import RetrievalIndex
from modeling_unimur.index.folder import FORMAT
from tests.hits import assert_same_answers
from tests.index.test_durability import change_about, resign
from tests.index.vectors import random_units as unit


@pytest.fixture
def index():
    index = RetrievalIndex(model="tiny@1")
    index.add("text", [f"t{i}" for i in range(30)], unit(30, seed=1), [{"text": f"text {i}"} for i in range(30)])
    index.add("image", [f"i{i}" for i in range(20)], unit(20, seed=2), [{"image": f"{i}.png"} for i in range(20)])
    return index


def test_search_is_exact(index):
    queries, texts, images = unit(5, seed=3), unit(30, seed=1), unit(20, seed=2)
    for kind, vectors in (("text", texts), ("image", images)):
        for row, hits in enumerate(index.search(queries, 4, kind)):
            cosines = vectors @ queries[row]
            best = np.argsort(-cosines)[:4].tolist()
            assert [hit.id for hit in hits] == [f"{kind[0]}{i}" for i in best]
            assert [hit.score for hit in hits] == pytest.approx(cosines[best].tolist(), abs=1e-6)
            assert hits[0].payload == ({"text": f"text {best[0]}"} if kind == "text" else {"image": f"{best[0]}.png"})


def test_width_is_that_of_the_first_vectors():
    index = RetrievalIndex()
    assert index.search(unit(2), 3) == [[], []]
    assert index.search(unit(2, 8), 3, "text", {"a": 1}) == [[], []]
    index.add("text", ["a"], unit(1, 8))
    assert (index.width, index.model) == (8, None)
    with pytest.raises(ValueError, match=r"\(1, 5\)"):
        index.add("image", ["a"], unit(1, 5))


def test_the_folder_holds_everything(index, tmp_path):
    index.add("text", ["שלום", 'a "b"\n'], unit(2, seed=7), [{"text": "שלום"}, {"text": {"x": [1]}, "year": 2024}])
    index.remove("image", ["i0", "i19", "i4"])
    index.save(tmp_path / "index")
    again = RetrievalIndex.load(tmp_path / "index")
    queries = unit(4, seed=8)
    assert_same_answers(again.search(queries, 60), index.search(queries, 60))
    assert (again.width, again.model, len(again)) == (16, "tiny@1", 49)
    again.add("image", ["i1"], unit(1, seed=9))  # vectors that were read can be written to
    assert [path.name for path in tmp_path.iterdir()] == ["index"]
    assert stat.S_IMODE((tmp_path / "index").stat().st_mode) & 0o055 == 0o055  # others may read it
    with pytest.raises(ValueError, match=r"'tiny@1'.*'tiny@2'"):
        RetrievalIndex.load(tmp_path / "index", model="tiny@2")


def test_nobody_is_kept_out_while_it_is_open(index, tmp_path):
    index.save(tmp_path / "index")
    other = RetrievalIndex.load(tmp_path / "index")
    other.remove("text", ["t0"])
    other.save()
    # What it does not know of is not overwritten.
    with pytest.raises(ValueError, match="has changed"):
        index.save()
    assert len(RetrievalIndex.load(tmp_path / "index")) == 49


def test_another_index_is_replaced_only_on_demand(index, tmp_path):
    index.save(tmp_path / "index")
    small = RetrievalIndex()
    small.add("text", ["only"], unit(1))
    with pytest.raises(ValueError, match="another index"):
        small.save(tmp_path / "index")
    small.save(tmp_path / "index", replace=True)
    assert len(RetrievalIndex.load(tmp_path / "index")) == 1
    RetrievalIndex().save(tmp_path / "index", replace=True)
    assert len(RetrievalIndex.load(tmp_path / "index")) == 0


def test_a_folder_with_something_else_is_left_alone(index, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(ValueError, match="something else"):
        index.save(tmp_path, replace=True)
    assert (tmp_path / "thesis.txt").read_text(encoding="utf-8") == "years of work"
    (tmp_path / "empty").mkdir()
    index.save(tmp_path / "empty")
    assert len(RetrievalIndex.load(tmp_path / "empty")) == 50


def test_objects_are_kept_in_memory_and_saved_without(index, tmp_path):
    thing = object()
    index.add("image", ["object", "path"], unit(2, seed=6), [{"image": thing, "n": 1}, {"image": Path("a.png")}])
    assert index.search(unit(2, seed=6), 1, "image", {"n": 1})[0][0].payload["image"] is thing
    with pytest.warns(UserWarning, match="1 images"):
        index.save(tmp_path / "index")
    hits = RetrievalIndex.load(tmp_path / "index").search(unit(2, seed=6), 1, "image")
    assert [(hit[0].id, hit[0].payload) for hit in hits] == [("object", {"n": 1}), ("path", {"image": "a.png"})]
    index.remove("image", ["object"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        index.save()


@pytest.mark.parametrize("name", ["embeddings.safetensors", "items.jsonl", "index.json"])
def test_a_damaged_index_is_one_clear_error(index, tmp_path, name):
    index.save(tmp_path / "index")
    path = tmp_path / "index" / "v000001" / name
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match=rf"damaged \({name}\)"):
        RetrievalIndex.load(tmp_path / "index")
    path.unlink()
    with pytest.raises(ValueError, match="is gone"):
        RetrievalIndex.load(tmp_path / "index")


@pytest.mark.parametrize(
    ("about", "words"),
    [
        ({}, "items and vectors do not agree"),
        ({"format": FORMAT + 1}, f"format {FORMAT + 1}"),
        ({"factory": "Flat"}, "FAISS"),
    ],
)
def test_what_does_not_belong_together(index, tmp_path, about, words):
    def change(version):
        with open(version / "items.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": "text", "id": "x", "payload": {}}) + "\n")
        change_about(**about)(version)

    index.save(tmp_path / "index")
    resign(tmp_path / "index", change)
    with pytest.raises(ValueError, match=words):
        RetrievalIndex.load(tmp_path / "index")


def test_an_index_of_an_earlier_version_is_named(tmp_path):
    for name in ("index.json", "embeddings.safetensors", "items.jsonl"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(ValueError, match="earlier version"):
        RetrievalIndex.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="no index"):
        RetrievalIndex.load(tmp_path / "nothing")


@pytest.fixture
def saved_without_package(index, tmp_path, monkeypatch):
    """A folder of the index, in a process that has the code of a release alone."""

    def missing(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name="modeling_unimur")

    index.save(tmp_path / "index")
    monkeypatch.setattr("modeling_unimur.memory_index.importlib.import_module", missing)
    return tmp_path / "index"


def test_without_the_package_a_folder_is_read_and_not_written(index, saved_without_package, tmp_path):
    again = RetrievalIndex.read_alone(saved_without_package)
    assert_same_answers(again.search(unit(4, seed=8), 60), index.search(unit(4, seed=8), 60))
    assert not again.refresh()
    again.add("text", ["one more"], unit(1))
    for change in (again.save, index.save, RetrievalIndex.load):
        with pytest.raises(ImportError, match="pip install unimur"):
            change(tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("name", "content", "error", "told"),
    [
        ("items.jsonl", None, FileNotFoundError, "items"),
        ("items.jsonl", "{", ValueError, "damaged"),
        ("items.jsonl", "", ValueError, "agree"),
        ("embeddings.safetensors", "", ValueError, "damaged"),
        ("index.json", "[]", ValueError, "damaged"),
        ("index.json", '{"factory": "Flat"}', ImportError, "pip install unimur"),
        ("../CURRENT", "", ValueError, "damaged"),
        ("../CURRENT", None, FileNotFoundError, "no index"),
    ],
)
def test_without_the_package_a_bad_folder_is_one_clear_error(saved_without_package, name, content, error, told):
    path = saved_without_package / "v000001" / name
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(error, match=told):
        RetrievalIndex.read_alone(saved_without_package)
