"""The exact index: what it finds, what it replaces, and its folder."""

import json
import stat

import pytest
import torch
from safetensors.torch import load_file, save_file

from modeling_unimur import RetrievalIndex
from tests.hits import assert_same_hits


def unit(rows: int, width: int = 8, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(rows, width, generator=generator), dim=-1)


@pytest.fixture
def index():
    index = RetrievalIndex(probe=unit(1, seed=9)[0])
    index.add("text", [f"t{i}" for i in range(30)], unit(30, seed=1), [f"text {i}" for i in range(30)])
    index.add("image", [f"i{i}" for i in range(20)], unit(20, seed=2), [f"{i}.png" for i in range(20)])
    return index


def test_search_is_exact(index):
    queries, texts, images = unit(5, seed=3), unit(30, seed=1), unit(20, seed=2)
    for kind, vectors in (("text", texts), ("image", images)):
        for row, hits in enumerate(index.search(queries, 4, kind)):
            cosines = vectors @ queries[row]
            best = cosines.argsort(descending=True)[:4].tolist()
            assert [hit["id"] for hit in hits] == [f"{kind[0]}{i}" for i in best]
            assert [hit["score"] for hit in hits] == pytest.approx(cosines[best].tolist(), abs=1e-6)
            assert hits[0][kind] == (f"text {best[0]}" if kind == "text" else f"{best[0]}.png")
            assert hits[0]["kind"] == kind


def test_joint_ranking_is_the_merged_one(index):
    queries = unit(3, seed=4)
    both = [
        sorted(text + image, key=lambda hit: -hit["score"])[:10]
        for text, image in zip(index.search(queries, 50, "text"), index.search(queries, 50, "image"), strict=True)
    ]
    for found, expected in zip(index.search(queries, 10), both, strict=True):
        assert_same_hits(found, expected)
    assert {hit["kind"] for hit in both[0]} == {"text", "image"}


def test_top_k_beyond_the_pool_gives_all(index):
    assert len(index.search(unit(1), 500, "image")[0]) == 20
    assert len(index.search(unit(1), 500)[0]) == 50
    assert RetrievalIndex().search(unit(2), 3) == [[], []]
    assert RetrievalIndex().search(unit(2), 3, "text") == [[], []]


def test_vectors_are_normalised_here():
    index = RetrievalIndex()
    index.add("text", ["long", "short"], torch.tensor([[100.0, 0.0], [0.6, 0.8]]), ["a", "b"])
    hits = index.search(torch.tensor([[0.6, 0.8]]), 2, "text")[0]
    assert [(hit["id"], round(hit["score"], 5)) for hit in hits] == [("short", 1.0), ("long", 0.6)]


def test_a_known_id_is_replaced_and_of_two_the_last_counts(index):
    index.add("text", ["t3", "new", "new"], unit(3, seed=5), ["third", "lost", "kept"])
    assert (index.count("text"), len(index)) == (31, 51)
    vectors = unit(3, seed=5)
    assert index.search(vectors[:1], 1, "text")[0][0] == pytest.approx(
        {"id": "t3", "score": 1.0, "kind": "text", "text": "third"}
    )
    found = index.search(vectors[2:], 1, "text")[0][0]
    assert (found["id"], found["text"]) == ("new", "kept")
    assert max(hit["score"] for hit in index.search(vectors[1:2], 51)[0]) < 0.999
    assert (("text", "t3") in index, ("image", "t3") in index) == (True, False)


def test_an_id_may_stand_for_a_text_and_for_a_picture(index):
    index.add("image", ["t0"], unit(1, seed=6), ["picture.png"])
    assert (index.count("text"), index.count("image")) == (30, 21)


def test_the_folder_holds_everything(index, tmp_path):
    index.add("text", ["שלום", 'a "b"\n'], unit(2, seed=7), ["שלום", {"text": "x", "n": [1]}])
    index.save(tmp_path / "index")
    again = RetrievalIndex.load(tmp_path / "index")
    queries = unit(4, seed=8)
    for found, expected in zip(again.search(queries, 60), index.search(queries, 60), strict=True):
        assert_same_hits(found, expected)
    assert torch.equal(again.probe, index.probe)
    assert sorted(p.name for p in (tmp_path / "index").iterdir()) == [
        "embeddings.safetensors", "index.json", "items.jsonl",
    ]  # fmt: skip
    assert sorted(p.name for p in tmp_path.iterdir()) == ["index"]
    assert stat.S_IMODE((tmp_path / "index").stat().st_mode) & 0o055 == 0o055  # others may read it


def test_an_index_replaces_an_index_whole(index, tmp_path):
    index.save(tmp_path / "index")
    small = RetrievalIndex()
    small.add("text", ["only"], unit(1), ["one"])
    small.save(tmp_path / "index")
    assert len(RetrievalIndex.load(tmp_path / "index")) == 1
    RetrievalIndex().save(tmp_path / "index")
    assert len(RetrievalIndex.load(tmp_path / "index")) == 0


def test_a_folder_with_something_else_is_left_alone(index, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(ValueError, match="holds something else"):
        index.save(tmp_path)
    assert (tmp_path / "thesis.txt").read_text(encoding="utf-8") == "years of work"
    (tmp_path / "empty").mkdir()
    index.save(tmp_path / "empty")
    assert len(RetrievalIndex.load(tmp_path / "empty")) == 50


def test_objects_are_saved_without_a_path(index, tmp_path):
    index.add("image", ["object"], unit(1, seed=6), [object()])
    with pytest.warns(UserWarning, match="1 pictures were given as objects"):
        index.save(tmp_path / "index")
    hit = RetrievalIndex.load(tmp_path / "index").search(unit(1, seed=6), 1, "image")[0][0]
    assert (hit["id"], hit["image"]) == ("object", None)


def cut(name, size):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


def edit_items(change):
    def damage(folder):
        lines = (folder / "items.jsonl").read_text(encoding="utf-8").splitlines()
        (folder / "items.jsonl").write_text("\n".join(change(lines)), encoding="utf-8")

    return damage


def other_vectors(folder):
    tensors = load_file(folder / "embeddings.safetensors")
    tensors["image"] = tensors["image"][:3].clone()
    (folder / "embeddings.safetensors").unlink()
    save_file(tensors, folder / "embeddings.safetensors")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (cut("embeddings.safetensors", 200), "damaged"),
        (cut("embeddings.safetensors", 0), "damaged"),
        (cut("items.jsonl", 300), "damaged"),
        (cut("index.json", 5), "damaged"),
        (lambda folder: (folder / "items.jsonl").unlink(), "damaged"),
        (lambda folder: (folder / "index.json").write_text('{"format": 1}'), "damaged"),
        (lambda folder: (folder / "index.json").write_text("[]"), "damaged"),
        (lambda folder: (folder / "index.json").write_text(json.dumps({"format": 99})), "format 99"),
        (edit_items(lambda lines: lines[:-1]), "damaged"),
        (edit_items(lambda lines: ["{}", *lines[1:]]), "damaged"),
        (edit_items(lambda lines: ["7", *lines[1:]]), "damaged"),
        (other_vectors, "damaged"),
    ],
)
def test_a_damaged_index_is_one_clear_error(index, tmp_path, damage, words):
    index.save(tmp_path / "index")
    damage(tmp_path / "index")
    with pytest.raises(ValueError, match=rf"The index in {tmp_path / 'index'}.*{words}"):
        RetrievalIndex.load(tmp_path / "index")


def test_wrong_calls(index, tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no index"):
        RetrievalIndex.load(tmp_path)
    with pytest.raises(ValueError, match="kind is one of"):
        index.add("video", ["a"], unit(1), ["a"])
    with pytest.raises(ValueError, match="2 ids, 1 payloads and 1 embeddings"):
        index.add("text", ["a", "b"], unit(1), ["a"])
    with pytest.raises(ValueError, match="vectors of 8 numbers; these have 5"):
        index.add("text", ["a"], unit(1, 5), ["a"])
    assert len(index) == 50
