"""The pipeline over every kind of index: same answers, filters, removal, other processes, other models."""

import sys

import pytest
import torch
from transformers import pipeline

from modeling_unimur import MultimodalRetrievalPipeline
from modeling_unimur.index import open_index
from modeling_unimur.modeling_open_clip import image_vectors
from tests import tiny
from tests.hits import assert_same_answer, assert_same_hits
from tests.index.databases import DATABASES, PLACES, database

TEXTS = ["she plays guitar", "no, but the birthday cake was good", "what a beautiful morning it is"]
LICENCES = [{"licence": "cc0", "year": 2000 + n} if n % 2 else {"licence": "by"} for n in range(4)]


def make(pair) -> MultimodalRetrievalPipeline:
    return pipeline("multimodal-retrieval", model=pair[0], processor=pair[1])


def fill(retriever, pictures):
    report = retriever.add(images=pictures, texts=TEXTS, image_payloads=LICENCES)
    assert report == {"images": 4, "texts": 3, "skipped": []}
    return retriever


@pytest.fixture(scope="module")
def plain(pair, pictures):
    """In memory; tests only read it."""
    return fill(make(pair), pictures)


@pytest.fixture(params=["memory", "Flat", "HNSW16", *DATABASES])
def place(request, tmp_path):
    """Address and kind of an index that is not there yet."""
    if request.param in PLACES:
        return database(request.param, tmp_path), "Flat"
    return tmp_path / "index", request.param


def test_without_the_package_a_folder_without_an_index_is_not_found(pair, tmp_path, monkeypatch):
    retriever = make(pair)
    monkeypatch.setitem(sys.modules, "modeling_unimur.index", None)
    for place in (tmp_path, tmp_path / "absent"):
        with pytest.raises(FileNotFoundError, match="no index"):
            retriever.load_index(place)
        with pytest.raises(ImportError, match="pip install"):
            retriever.load_index(place, create="memory")
    for place in ("items.db", "localhost:19530", "http://localhost:19530", "qdrant+items", "lancedb+items"):
        with pytest.raises(ImportError, match="pip install"):
            retriever.load_index(place)


def test_same_answers_as_in_memory(pair, plain, place, pictures):
    uri, kind = place
    retriever = make(pair)
    with pytest.raises(FileNotFoundError):
        retriever.load_index(uri)
    retriever.load_index(uri, create=kind)
    fill(retriever, pictures).save_index()
    coherent = [{"coherent": True}, {"coherent": True, "modality": "joint"}]
    for arguments in ({}, {"modality": "joint"}, {"modality": "image"}, {"where": {"licence": "cc0"}}, *coherent):
        assert_same(retriever("hi", top_k=9, **arguments), plain("hi", top_k=9, **arguments))
    hits = retriever("hi", top_k=9, where={"year": {"gte": 2002}})
    assert [hit["image"] for hit in hits["image"]] == [pictures[3]]
    assert {name: hits["image"][0][name] for name in ("licence", "year")} == {"licence": "cc0", "year": 2003}
    assert hits["text"] == []
    assert retriever.remove(images=pictures[:1], texts=TEXTS[:2]) == 3
    retriever.save_index()
    retriever.index.close()

    again = make(pair)
    again.load_index(str(uri))
    assert (again.index.count("text"), again.index.count("image"), len(again.index)) == (1, 3, 4)
    assert {hit["id"] for hit in again("hi", top_k=9)["image"]} == set(pictures[1:])
    assert again.add(texts=["one more"])["texts"] == 1
    assert len(again.index) == 5
    again.index.close()


def assert_same(found, expected):
    (assert_same_answer if isinstance(found, dict) else assert_same_hits)(found, expected)


def test_another_model_is_refused(pair, place, make_model, pictures, tmp_path):
    uri, kind = place
    retriever = make(pair)
    retriever.load_index(uri, create=kind)
    fill(retriever, pictures).save_index()
    retriever.index.close()
    # The same shapes, other weights: only what the vectors mean differs.
    stranger = make(make_model(clip=tiny.clip(tmp_path / "clip", seed=99)))
    stranger.add(texts=["mine"])
    with pytest.raises(ValueError, match="another model"):
        stranger.load_index(uri)
    assert len(stranger.index) == 1
    # Other heads on the same dual encoder search what it embedded.
    cousin = make(make_model(projection_dim=None))
    cousin.load_index(uri)
    assert len(cousin("hi")["image"]) == 4
    cousin.index.close()


def test_an_index_given_as_an_object(pair, plain, pictures, tmp_path):
    vectors = image_vectors(pair[0], pair[1].process_images([pictures[0]]))
    with open_index(tmp_path / "index", 24, "my-clip@1") as index:
        index.add("image", ["mine"], vectors, [{"path": "elsewhere.png"}])
        retriever = make(pair)
        with pytest.raises(ValueError, match="another model"):
            retriever.load_index(index)
        retriever.load_index(index, model="my-clip@1")
        hit = retriever("hi")["image"][0]
        assert (hit["id"], hit["path"], hit["image"]) == ("mine", "elsewhere.png", None)
        index.add("image", ["later"], -vectors)
        assert len(retriever("hi")["image"]) == 2
    with open_index(tmp_path / "wide", 32, "my-clip@1") as index, pytest.raises(ValueError, match="32 numbers"):
        make(pair).load_index(index, model="my-clip@1")


def test_the_code_of_a_release_opens_the_package_s_indexes(pair, plain, pictures, tmp_path):
    for part in pair:
        part.save_pretrained(tmp_path / "release")
    retriever = pipeline("multimodal-retrieval", model=str(tmp_path / "release"), trust_remote_code=True)
    assert type(retriever).__module__.startswith("transformers_modules.")
    retriever.load_index(tmp_path / "index", create="HNSW16")
    fill(retriever, pictures).save_index()
    for coherent in (False, True):
        assert_same(retriever("hi", top_k=9, coherent=coherent), plain("hi", top_k=9, coherent=coherent))
    reader = make(pair)
    reader.load_index(tmp_path / "index", read_only=True)
    assert_same(reader("hi", top_k=9), plain("hi", top_k=9))


def test_one_writer(pair, tmp_path):
    first, second = make(pair), make(pair)
    first.load_index(tmp_path / "index", create="Flat")
    first.add(texts=TEXTS)
    first.save_index()
    with pytest.raises(BlockingIOError, match="being written"):
        second.load_index(tmp_path / "index")
    assert len(second.index) == 0
    first.index.close()
    second.load_index(tmp_path / "index")
    assert len(second.index) == 3
    second.index.close()


def test_payloads_that_do_not_fit(pair):
    with pytest.raises(ValueError, match="1 payloads"):
        make(pair).add(texts=TEXTS, text_payloads=[{}])


@pytest.mark.parametrize("modality", ["text", "image", "joint"])
def test_truncated_vectors_are_those_of_numpy(pair, plain, pictures, modality):
    width = plain.width
    cut = fill(pipeline("multimodal-retrieval", model=pair[0], processor=pair[1], truncate_dim=3), pictures)
    assert (plain.width, cut.width, cut.index.width) == (width, 3, 3)
    whole = {hit.id: hit.vector for hit in plain.index.search(plain.embed("hi"), 99, with_vectors=True)[0]}
    query = plain.embed("hi")[0, :3]
    torch.testing.assert_close(cut.embed("hi")[0], query / query.norm())
    found = cut("hi", top_k=99, modality=modality)
    for hit in found if modality == "joint" else found[modality]:
        vector = torch.from_numpy(whole[hit["id"]])[:3]
        assert hit["score"] == pytest.approx(float(vector @ query / vector.norm() / query.norm()), abs=1e-5)


def test_embeddings_may_be_whole_or_truncated(pair, plain):
    cut = pipeline("multimodal-retrieval", model=pair[0], processor=pair[1], truncate_dim=3)
    vectors = torch.randn(2, plain.width)
    cut.add_embeddings("text", ["whole"], vectors[:1], ["a"])
    cut.add_embeddings("text", ["cut"], vectors[:1, :3], ["a"])
    first, second = cut.rank(cut.embed("hi"))[0]["text"]
    assert first["score"] == pytest.approx(second["score"], abs=1e-6)
    with pytest.raises(ValueError, match="dimensions"):
        cut.add_embeddings("text", ["x"], vectors[:, :4], ["a", "b"])


@pytest.mark.parametrize("kind", ["memory", "memory,binary", "Flat"])
def test_other_widths_of_queries_and_index_are_named(pair, plain, tmp_path, kind):
    cut = pipeline("multimodal-retrieval", model=pair[0], processor=pair[1], truncate_dim=3)
    cut.load_index(tmp_path / "index", create=kind)
    cut.add(texts=TEXTS)
    expected = cut("hi")
    cut.save_index()
    cut.index.close()
    with pytest.raises(ValueError, match=rf"of 3 numbers.*{plain.width}.*truncate_dim=3"):
        make(pair).load_index(tmp_path / "index")
    with pytest.raises(ValueError, match=rf"3\).*{plain.width}\)"):
        cut.rank(plain.embed("hi"))
    again = pipeline("multimodal-retrieval", model=pair[0], processor=pair[1], truncate_dim=3)
    again.load_index(tmp_path / "index")
    assert_same_answer(again("hi"), expected)


@pytest.mark.parametrize("wrong", [0, -1, 10**6, "3", 2.5])
def test_a_truncation_that_cannot_be_is_named(pair, wrong):
    with pytest.raises(ValueError, match="truncate_dim"):
        pipeline("multimodal-retrieval", model=pair[0], processor=pair[1], truncate_dim=wrong)
