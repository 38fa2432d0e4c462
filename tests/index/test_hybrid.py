"""Words beside vectors: BM25, fusion, saving, and the pipeline over them."""

import sys
from types import SimpleNamespace

import bm25s
import numpy as np
import pytest
from transformers import pipeline

from modeling_unimur import MultimodalRetrievalPipeline
from modeling_unimur.index import open_index
from modeling_unimur.index.hybrid import (
    FUSED_DEPTH,
    RRF,
    WordIndex,
    best_weight,
    candidates,
    check_hybrid,
    compare_weights,
    fuse,
    keep_words,
    search,
    split_words,
    words_of,
    write_words,
)
from modeling_unimur.memory_index import Hit, RetrievalIndex
from tests.index.vectors import random_units

WIDTH, MODEL = 16, "tiny@1"
TEXTS = ["the red lighthouse", "a harbour at night", "lighthouse keeper in the lighthouse", "bread and butter"]
CAPTIONS = ["A lighthouse on a rock", None, "Harbour"]
VECTORS = random_units(len(TEXTS) + len(CAPTIONS) + 2, WIDTH)


def fill(index):
    payloads = [{"text": text, "year": 2000 + number} for number, text in enumerate(TEXTS)]
    index.add("text", [f"t{n}" for n in range(len(TEXTS))], VECTORS[: len(TEXTS)], payloads)
    captions = [{"caption": caption, "year": 2000} if caption else {} for caption in CAPTIONS]
    ids = [f"i{n}" for n in range(len(CAPTIONS))]
    index.add("image", ids, VECTORS[len(TEXTS) : len(TEXTS) + len(CAPTIONS)], captions)
    return index


@pytest.fixture(
    params=["memory", "memory,int8", "memory,binary", "Flat", "SQ8", "HNSW16", "IVF2,Flat", "IVF2,PQ8x4,RFlat"]
)
def kept(request, tmp_path):
    """An index in a folder that keeps words, with one version written."""
    with open_index(tmp_path / "index", WIDTH, MODEL, request.param) as index:
        for kind in ("text", "image") if "IVF" in request.param else ():
            index.train(kind, random_units(800, WIDTH, seed=5))
        keep_words(index)
        fill(index).save()
    return tmp_path / "index"


def ids(index, query, hybrid, **options):
    (hits,) = search(index, VECTORS[-1:], [query], hybrid, **options)
    return [hit.id for hit in hits]


# -- words ------------------------------------------------------------------------------------------------------------
def test_scores_are_those_of_bm25s(tmp_path):
    reference = bm25s.BM25()
    reference.index(split_words(TEXTS), show_progress=False)
    made = WordIndex(TEXTS)
    made.save(tmp_path / "words")
    for words in (["lighthouse"], ["harbour", "lighthouse", "lighthouse"]):
        expected = reference.get_scores(words)
        np.testing.assert_array_equal(made.scores(words), expected)
        np.testing.assert_array_equal(WordIndex.load(tmp_path / "words").scores(words), expected)
    assert not made.scores(["unheard"]).any()
    assert made.num_bytes > 0


def test_accents_are_found_composed_or_not():
    (composed,), (apart,) = split_words(["Caf\u00e9"]), split_words(["Cafe\u0301"])
    assert composed == apart == ["caf\u00e9"]


def test_the_index_class_of_an_earlier_release_is_written_without_words(tmp_path):
    assert write_words(SimpleNamespace(), tmp_path) == {}


@pytest.mark.parametrize("documents", [[], ["", "the of"]])
def test_documents_without_words(documents, tmp_path):
    made = WordIndex(documents)
    made.save(tmp_path / "words")
    for index in (made, WordIndex.load(tmp_path / "words")):
        assert index.scores(["lighthouse"]).tolist() == [0] * len(documents)
        assert index.num_bytes == 0


def test_words_are_those_of_a_query():
    assert split_words(["The SIZE 8 of Über-fonts"]) == [["size", "8", "über", "fonts"]]


# -- fusion -----------------------------------------------------------------------------------------------------------
def hit(name, cosine, bm25):
    return Hit(name, cosine, "text", cosine=cosine, bm25=bm25)


THREE = [hit("a", 0.9, 0.0), hit("b", 0.5, 4.0), hit("c", 0.1, 2.0)]


@pytest.mark.parametrize(
    ("hybrid", "expected"),
    [
        (0, {"a": 1.0, "b": 0.5, "c": 0.0}),
        (0.25, {"a": 0.75, "b": 0.625, "c": 0.125}),
        (0.5, {"b": 0.75, "a": 0.5, "c": 0.25}),
        (1, {"b": 1.0, "c": 0.5}),  # `a` shares no word
        (RRF, {"b": 1 / 62 + 1 / 61, "c": 1 / 63 + 1 / 62, "a": 1 / 61}),
    ],
)
def test_fused_scores(hybrid, expected):
    found = fuse(THREE, hybrid)
    assert [one.id for one in found] == list(expected)
    assert {one.id: one.score for one in found} == pytest.approx(expected)
    assert {(one.id, one.cosine, one.bm25) for one in found} <= {(one.id, one.cosine, one.bm25) for one in THREE}


def test_equal_scores_go_by_cosine():
    assert [one.id for one in fuse([hit("low", 0.1, 3.0), hit("high", 0.2, 3.0)], 1.0)] == ["high", "low"]
    assert fuse([], 0.5) == fuse([], RRF) == []


@pytest.mark.parametrize("hybrid", [-0.1, 1.1, float("nan"), True, "RRF", "0.5", None, [0.5]])
def test_neither_a_weight_nor_rrf(hybrid):
    with pytest.raises(ValueError, match="rrf"):
        check_hybrid(hybrid)


# -- an index ---------------------------------------------------------------------------------------------------------
def test_words_find_what_cosines_rank_last(kept):
    for read_only in (True, False):
        with open_index(kept, read_only=read_only) as index:
            assert ids(index, "a lighthouse?", 1.0) == ["t2", "t0", "i0"]
            assert ids(index, "lighthouse", 1.0, kind="image") == ["i0"]
            assert ids(index, "lighthouse", 1.0, where={"year": 2000}) == ["t0", "i0"]
            assert ids(index, "lighthouse", 1.0, top_k=1) == ["t2"]
            dense = [one.id for one in index.search(VECTORS[-1:], 7)[0]]
            assert ids(index, "lighthouse", 0.0) == ids(index, "unheard", 0.7) == dense
            assert set(ids(index, "lighthouse", RRF)) == set(dense)
            assert not ids(index, "unheard", 1.0)


def test_words_are_read_from_the_folder(kept, monkeypatch):
    with open_index(kept, read_only=True) as index:
        monkeypatch.setattr("modeling_unimur.index.hybrid._documents", None)
        assert ids(index, "harbour", 1.0) == ["i2", "t1"]


def test_change_keeps_words_in_step(kept):
    with open_index(kept) as index:
        ids(index, "lighthouse", 1.0)
        index.remove("text", ["t0"])
        index.add("text", ["t3", "t9"], VECTORS[-2:], [{"text": "a lighthouse"}, {"text": "zeppelin"}])
        expected = {"lighthouse": {"t2", "t3", "i0"}, "zeppelin": {"t9"}, "bread": set(), "red": set()}
        for word, found in expected.items():
            assert set(ids(index, word, 1.0)) == found
        index.save(compact=False)
        assert set(ids(index, "lighthouse", 1.0)) == expected["lighthouse"]
        index.save()
        assert set(ids(index, "lighthouse", 1.0)) == expected["lighthouse"]
        fused = search(index, VECTORS[-1:], ["zeppelin"], 0.5)
    with open_index(kept, read_only=True) as index:
        for word, found in expected.items():
            assert set(ids(index, word, 1.0)) == found
        assert search(index, VECTORS[-1:], ["zeppelin"], 0.5) == fused


def test_a_reader_takes_over_newer_words(kept):
    with open_index(kept, read_only=True) as reader:
        assert not ids(reader, "zeppelin", 1.0)
        with open_index(kept) as writer:
            writer.add("text", ["t9"], VECTORS[-2:-1], [{"text": "zeppelin"}])
            writer.save()
        assert reader.refresh()
        assert ids(reader, "zeppelin", 1.0) == ["t9"]


def test_a_replaced_version_is_read_from_the_payloads(kept):
    with open_index(kept, read_only=True) as reader:
        with open_index(kept) as writer:
            writer.remove("text", ["t2"])
            writer.save()
        assert ids(reader, "lighthouse", 1.0) == ["t2", "t0", "i0"]  # the version that it has read


def test_candidates_beyond_the_depth_have_both_scores():
    index, rows = RetrievalIndex(), random_units(300, WIDTH)
    index.add("text", [str(n) for n in range(300)], rows, [{"text": f"word{n} common"} for n in range(300)])
    last = int((rows @ VECTORS[-1]).argmin())
    (found,) = candidates(index, VECTORS[-1:], [f"word{last}"])
    assert len(found) == FUSED_DEPTH + 1
    assert found[-1].id == str(last)
    assert found[-1].cosine == pytest.approx(float(rows[last] @ VECTORS[-1]), abs=1e-6)
    assert found[-1].bm25 > 0
    assert {one.bm25 for one in found[:-1]} == {0.0}
    (found,) = candidates(index, VECTORS[-1:], ["common"], depth=5)
    assert len(found) <= 10


@pytest.mark.parametrize("kind", ["memory", "Flat"])
def test_a_folder_without_words_names_the_command(kind, tmp_path):
    with open_index(tmp_path / "index", WIDTH, MODEL, kind) as index:
        fill(index).save()
    with open_index(tmp_path / "index") as index:
        with pytest.raises(ValueError, match="--bm25"):
            words_of(index)
        keep_words(index)
        index.save()
    with open_index(tmp_path / "index", read_only=True) as index:
        assert ids(index, "bread", 1.0) == ["t3"]
        with pytest.raises(PermissionError):
            keep_words(index)


def test_milvus_is_refused(tmp_path):
    pytest.importorskip("milvus_lite")
    with open_index(tmp_path / "items.db", WIDTH, MODEL) as index:
        for refused in (keep_words, lambda one: search(one, VECTORS[:1], ["x"], 0.5)):
            with pytest.raises(ValueError, match="Milvus"):
                refused(index)


@pytest.mark.parametrize("texts", [None, ["one", "two"]])
def test_each_query_has_words(texts):
    with pytest.raises(ValueError, match="words of each query"):
        search(fill(RetrievalIndex()), VECTORS[-1:], texts, 0.5)


def test_a_damaged_file_of_words_is_refused(kept):
    (file,) = kept.glob("v*/words.safetensors")
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(ValueError, match="damaged"):
        open_index(kept, read_only=True)


def test_without_the_library(kept, monkeypatch):
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with open_index(kept, read_only=True) as index:
        assert len(index.search(VECTORS[-1:])[0]) == 7
        with pytest.raises(ImportError, match=r"unimur\[hybrid"):
            ids(index, "x", 0.5)


# -- the weight -------------------------------------------------------------------------------------------------------
def test_weights_are_compared():
    found = [THREE, [hit("x", 0.9, 1.0), hit("y", 0.1, 0.0)]]
    measures = compare_weights(found, [{"b"}, {"x", "elsewhere"}], top_k=2)
    assert measures[0.0] == (pytest.approx(0.75), pytest.approx(0.75))  # b second, x first; one of two
    assert measures[1.0] == (1.0, pytest.approx(0.75))
    assert measures[RRF] == (1.0, pytest.approx(0.75))
    assert best_weight(measures) == 0.4  # the first that has b first


# -- the pipeline -----------------------------------------------------------------------------------------------------
@pytest.fixture
def retriever(pair, pictures):
    made = pipeline("multimodal-retrieval", model=pair[0], processor=pair[1])
    made.add(images=pictures[:2], texts=TEXTS, captions=["a zeppelin", None])
    return made


def chat(*turns):
    return [{"role": "user", "content": [{"type": "text", "text": turn}]} for turn in turns]


def test_the_pipeline_searches_the_words_of_all_turns(retriever, pictures):
    last = {"role": "user", "content": ["some bread", {"type": "image", "image": pictures[0]}]}
    dialogue = [*chat("where is the harbour?", "and"), last]
    found = retriever(dialogue, hybrid=1.0)
    assert {hit["text"] for hit in found["text"]} == {TEXTS[1], TEXTS[3]}
    assert found["image"] == []
    best = found["text"][0]
    assert best["score"] == 1.0
    assert best["bm25"] > 0
    assert -1 <= best["cosine"] <= 1
    (zeppelin,) = retriever("a zeppelin", hybrid=1, modality="image")["image"]
    assert zeppelin["caption"] == "a zeppelin"
    joint = retriever("zeppelin bread", hybrid="rrf", modality="joint", top_k=6)
    assert len(joint) == 6
    assert {hit["kind"] for hit in joint} == {"text", "image"}


def test_the_pipeline_ranks_as_plain_without_words_in_common(retriever):
    order = [hit["id"] for hit in retriever("hi", modality="joint", top_k=6)]
    for hybrid in (0, 0.5):
        assert [hit["id"] for hit in retriever("hi", modality="joint", top_k=6, hybrid=hybrid)] == order


def test_many_dialogues_keep_their_words_apart(retriever):
    asked = ["red", [], "bread", chat("night")]
    found = retriever(asked, hybrid=1.0, modality="text", on_error="skip")
    assert "error" in found[1]
    assert [row["text"][0]["text"] for row in (found[0], *found[2:])] == [TEXTS[0], TEXTS[3], TEXTS[1]]
    streamed = list(retriever(iter(["red", "bread"]), hybrid=1.0, modality="text"))
    assert [row["text"][0]["text"] for row in streamed] == [TEXTS[0], TEXTS[3]]
    embeds = retriever.embed(["red", "bread"])
    assert retriever.rank(embeds, words=["red", "bread"], hybrid=1.0, modality="text") == streamed
    with pytest.raises(ValueError, match="words of each query"):
        retriever.rank(embeds, hybrid=1.0)


def test_the_threshold_of_images_is_one_of_cosines(retriever):
    cosine = retriever("zeppelin", hybrid=1.0)["image"][0]["cosine"]
    assert retriever("zeppelin", hybrid=1.0, image_threshold=cosine - 1e-3)["image"]
    assert not retriever("zeppelin", hybrid=1.0, image_threshold=cosine + 1e-3)["image"]


@pytest.mark.parametrize("options", [{"coherent": True}, {"modality": "pair"}])
def test_coherent_replies_rank_by_cosines(retriever, options):
    with pytest.raises(ValueError, match="coherent"):
        retriever("hi", hybrid=0.5, **options)


def test_a_saved_index_of_the_pipeline_keeps_its_words(retriever, pair, tmp_path):
    retriever("bread", hybrid=0.5)
    retriever.save_index(tmp_path / "index")
    again = MultimodalRetrievalPipeline(model=pair[0], processor=pair[1])
    again.load_index(tmp_path / "index", read_only=True)
    assert again("bread", hybrid=0.5) == retriever("bread", hybrid=0.5)
