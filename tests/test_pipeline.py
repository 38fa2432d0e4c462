"""The pipeline: candidates in, ranked answers out."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline

from modeling_unimur import MultimodalRetrievalPipeline
from tests import tiny
from tests.hits import assert_same_answer, assert_same_hits

TEXTS = ["she plays guitar", "no, but the birthday cake was good", "what a beautiful morning it is"]


@pytest.fixture(scope="module")
def release(tmp_path_factory, pair):
    folder = tmp_path_factory.mktemp("release")
    for part in pair:
        part.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def filled(pair, pictures):
    """A pipeline with four pictures and three texts; tests only read it."""
    retriever = make(pair)
    assert retriever.add(images=pictures, texts=TEXTS) == {"images": 4, "texts": 3, "skipped": []}
    return retriever


def make(pair) -> MultimodalRetrievalPipeline:
    return pipeline("multimodal-retrieval", model=pair[0], processor=pair[1])


def dialogue(picture) -> list:
    content = [{"type": "text", "text": "look "}, {"type": "image", "image": picture}]
    return [{"role": "user", "content": content}, {"role": "assistant", "content": "nice"}]


def test_answers_are_the_cosines_of_model_and_processor(pair, filled, pictures):
    model, processor = pair
    with torch.no_grad():
        u = model.get_multimodal_features(**processor.process_context(dialogue(pictures[0]))).pooler_output
        texts = model.get_text_features(**processor.process_texts(TEXTS)).pooler_output
        images = model.get_image_features(**processor.process_images(pictures)).pooler_output
    answer = filled(dialogue(pictures[0]), top_k=2)
    assert answer.keys() == {"text", "image"}
    for kind, vectors, items in (("text", texts, TEXTS), ("image", images, pictures)):
        cosines = (u @ vectors.T)[0]
        best = cosines.argsort(descending=True)[:2].tolist()
        assert [hit["id"] for hit in answer[kind]] == [items[i] for i in best]
        assert [hit[kind] for hit in answer[kind]] == [items[i] for i in best]
        assert [hit["score"] for hit in answer[kind]] == pytest.approx(cosines[best].tolist(), abs=1e-5)
        assert all(hit.keys() == {"id", "score", kind} for hit in answer[kind])


def test_modalities(filled):
    both = filled("hi", top_k=10)
    assert (len(both["text"]), len(both["image"])) == (3, 4)
    assert_same_answer(filled("hi", top_k=10, modality="text"), {"text": both["text"]})
    assert_same_answer(filled("hi", top_k=10, modality="image"), {"image": both["image"]})
    joint = filled("hi", top_k=10, modality="joint")
    assert [hit["score"] for hit in joint] == sorted((hit["score"] for hit in joint), reverse=True)
    assert len(joint) == 7
    for kind in ("text", "image"):
        mine = [{key: hit[key] for key in ("id", "score", kind)} for hit in joint if hit["kind"] == kind]
        assert_same_hits(mine, both[kind])
    assert [hit["id"] for hit in filled("hi", top_k=2, modality="joint")] == [hit["id"] for hit in joint[:2]]


def test_every_form_of_input_and_batches_of_any_size(filled, pictures):
    picture = Image.open(pictures[1])
    inputs = [
        "hi",
        dialogue(pictures[0]),
        pictures[1],
        picture,
        np.asarray(picture),
        {"role": "user", "content": "hi"},
    ]
    together = filled(inputs, top_k=3)
    assert len(together) == 6
    for number in (3, 4):
        assert_same_answer(together[number], together[2])
    assert_same_answer(together[5], together[0])
    assert abs(together[2]["text"][0]["score"] - together[0]["text"][0]["score"]) > 1e-4
    for batch_size in (1, 4):
        for mine, theirs in zip(filled(inputs, top_k=3, batch_size=batch_size), together, strict=True):
            assert_same_answer(mine, theirs)
    for mine, single in zip(together, inputs, strict=True):
        assert_same_answer(filled(single, top_k=3), mine)
    assert isinstance(filled(["hi"]), list)
    assert isinstance(filled(["hi"], modality="joint")[0], list)


def test_options_may_be_set_when_the_pipeline_is_made(pair, pictures):
    retriever = pipeline("multimodal-retrieval", model=pair[0], processor=pair[1], top_k=1, modality="image")
    retriever.add(images=pictures, texts=TEXTS)
    assert [len(hits) for hits in retriever("hi").values()] == [1]
    assert len(retriever("hi", top_k=2)["image"]) == 2


def test_max_length_keeps_the_latest(filled):
    long = "a cat slept on my keyboard. " * 30 + "she plays guitar"
    short = filled(long, max_length=4)
    assert abs(short["text"][0]["score"] - filled(long)["text"][0]["score"]) > 1e-4
    assert_same_answer(short, filled("something else entirely, then: she plays guitar", max_length=4))


def test_threshold_holds_pictures_back(filled):
    best = filled("hi")["image"][0]["score"]
    assert filled("hi", image_threshold=best - 1e-4)["image"] != []
    held = filled("hi", image_threshold=best + 1e-4)
    assert held["image"] == []
    assert len(held["text"]) == 3


def test_bad_candidates_are_left_out_and_reported(pair, pictures, tmp_path):
    retriever = make(pair)
    broken, words = tmp_path / "broken.png", tmp_path / "words.png"
    with open(pictures[0], "rb") as file:
        broken.write_bytes(file.read()[:400])
    words.write_text("no picture", encoding="utf-8")
    bad = [str(broken), str(words), str(tmp_path / "absent.png"), "http://127.0.0.1:1/a.png", str(tmp_path), 7, None]
    report = retriever.add(images=[bad[0], pictures[0], *bad[1:], pictures[1]], texts=["hi", "", "  ", 3, "no"])
    assert (report["images"], report["texts"]) == (2, 2)
    assert [entry["item"] for entry in report["skipped"]][:5] == bad[:5]
    assert len(report["skipped"]) == 10
    for entry, word in zip(
        report["skipped"],
        ["truncated", "not an image", "no such", "allow_urls", "folder", "int", "NoneType", "empty", "empty", "int"],
        strict=True,
    ):
        assert word in entry["reason"], entry
    assert {hit["id"] for hit in retriever("hi", top_k=9)["image"]} == set(pictures[:2])
    assert {hit["id"] for hit in retriever("hi", top_k=9)["text"]} == {"hi", "no"}
    # A good one keeps the vector that it would have had without the bad ones beside it.
    alone = make(pair)
    alone.add(images=[pictures[1]])
    scores = {hit["id"]: hit["score"] for hit in retriever("hi", top_k=9)["image"]}
    assert alone("hi")["image"][0]["score"] == pytest.approx(scores[pictures[1]], abs=1e-6)


def test_ids(pair, pictures):
    retriever = make(pair)
    retriever.add(images=pictures[:2], image_ids=["a", 7], texts=["x", "y"], text_ids=["t1", "t2"])
    answer = retriever("hi", top_k=9)
    assert {hit["id"]: hit["image"] for hit in answer["image"]} == {"a": pictures[0], "7": pictures[1]}
    assert {hit["id"]: hit["text"] for hit in answer["text"]} == {"t1": "x", "t2": "y"}
    retriever.add(images=[pictures[2]], image_ids=["a"], texts=["z"], text_ids=["t2"])
    answer = retriever("hi", top_k=9)
    assert {hit["id"]: hit["image"] for hit in answer["image"]} == {"a": pictures[2], "7": pictures[1]}
    assert {hit["id"]: hit["text"] for hit in answer["text"]} == {"t1": "x", "t2": "z"}


def test_pictures_without_a_name_never_replace_one_another(pair):
    def noise(seed):
        return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (32, 32, 3), dtype=np.uint8))

    retriever = make(pair)
    assert retriever.add(images=[None, noise(0)])["images"] == 1
    assert retriever.add(images=[noise(1), noise(2)])["images"] == 2
    assert len(retriever.index) == 3


def test_batches_of_candidates_change_nothing(pair, pictures):
    scores = []
    for batch_size in (1, 2, 32):
        retriever = make(pair)
        retriever.add(images=pictures, texts=TEXTS, batch_size=batch_size)
        scores.append([hit["score"] for hit in retriever("hi", top_k=9, modality="joint")])
    assert scores[0] == pytest.approx(scores[2], abs=1e-5)
    assert scores[1] == pytest.approx(scores[2], abs=1e-5)


def test_ready_embeddings(pair):
    retriever = make(pair)
    vector = retriever.embed("hi")
    retriever.add_embeddings("image", ["mine", "not"], torch.cat([vector * 5, -vector]), ["a.png", None])
    hits = retriever("hi", top_k=2)["image"]
    assert [hit["id"] for hit in hits] == ["mine", "not"]
    assert [hit["score"] for hit in hits] == pytest.approx([1, -1], abs=1e-5)


def test_an_index_comes_back(pair, filled, tmp_path):
    filled.save_index(tmp_path / "gallery")
    other = make(pair)
    other.load_index(tmp_path / "gallery")
    assert len(other.index) == 7
    assert_same_answer(other("hi", top_k=9), filled("hi", top_k=9))
    other.add(texts=["one more"])
    assert len(other.index) == 8


def test_an_index_of_another_model_is_refused(filled, make_model, tmp_path):
    filled.save_index(tmp_path / "gallery")
    # The same shapes, other weights: only what the vectors mean differs.
    stranger = make(make_model(clip=tiny.clip(tmp_path / "clip", seed=99)))
    stranger.add(texts=["mine"])
    with pytest.raises(ValueError, match="another model"):
        stranger.load_index(tmp_path / "gallery")
    assert len(stranger.index) == 1


def test_the_release_folder_makes_the_same_pipeline(release, filled, pictures):
    for arguments in ({"task": "multimodal-retrieval"}, {}):
        retriever = pipeline(model=release, trust_remote_code=True, **arguments)
        assert type(retriever).__module__.startswith("transformers_modules.")
        retriever.add(images=pictures, texts=TEXTS)
        assert_same_answer(retriever("hi", top_k=9), filled("hi", top_k=9))
