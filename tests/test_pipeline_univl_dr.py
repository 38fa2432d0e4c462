"""UniVL-DR behind the task `multimodal-retrieval`, and where this package is not installed."""

import importlib
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import pipeline

from modeling_unimur import UniVLDRModel, UniVLDRProcessor
from tests.environments import closure
from tests.environments.floor import floor_folder
from tests.hits import assert_same_hits

TEXTS = ["she plays guitar", "what a beautiful morning it is"]
CAPTIONS = ["a cat slept", "the red balloon", None, ""]


@pytest.fixture(scope="module")
def parts(clip_folder):
    torch.manual_seed(0)
    return UniVLDRModel.from_backbones(str(clip_folder)), UniVLDRProcessor.from_backbones(str(clip_folder))


@pytest.fixture(scope="module")
def release(parts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("release")
    for part in parts:
        part.save_pretrained(folder)
    return folder


@pytest.fixture
def retriever(parts, pictures):
    made = pipeline("multimodal-retrieval", model=parts[0], processor=parts[1])
    report = made.add(images=pictures, captions=CAPTIONS, texts=TEXTS)
    assert report == {"images": 4, "texts": 2, "skipped": []}
    return made


def test_one_joint_ranking_or_one_of_each_kind(parts, retriever, pictures):
    model, processor = parts
    with torch.no_grad():
        query = model.get_text_features(**processor.process_queries(["a cat"])).pooler_output
        images = model.get_multimodal_features(**processor.process_documents(pictures, CAPTIONS)).pooler_output
        plain = model.get_image_features(**processor.process_images(pictures)).pooler_output
        texts = model.get_text_features(**processor.process_texts(TEXTS)).pooler_output
    torch.testing.assert_close(images[2:], plain[2:], atol=1e-6, rtol=0)
    assert (images[:2] - plain[:2]).abs().max() > 1e-3
    scores = dict(zip([*pictures, *TEXTS], (query @ torch.cat([images, texts]).T)[0].tolist(), strict=True))
    joint = retriever("a cat", modality="joint", top_k=6)
    assert [hit["id"] for hit in joint] == sorted(scores, key=scores.get, reverse=True)
    assert [hit["score"] for hit in joint] == pytest.approx(sorted(scores.values(), reverse=True), abs=1e-5)
    each = retriever("a cat", top_k=6)
    assert [hit["id"] for hit in each["image"]] == [hit["id"] for hit in joint if hit["kind"] == "image"]
    assert [hit["id"] for hit in each["text"]] == [hit["id"] for hit in joint if hit["kind"] == "text"]
    captions = {hit["id"]: hit.get("caption") for hit in each["image"]}
    assert [captions[picture] for picture in pictures] == ["a cat slept", "the red balloon", None, None]
    batch = retriever(["a cat", [{"role": "user", "content": "a cat"}]], modality="joint", top_k=6)
    assert [hit["id"] for hit in batch[0]] == [hit["id"] for hit in batch[1]] == [hit["id"] for hit in joint]
    chat = [{"role": "user", "content": "a cat"}, {"role": "assistant", "content": "which?"}]
    assert_same_hits(retriever(chat, modality="joint", top_k=1), retriever("a cat\nwhich?", modality="joint", top_k=1))


def test_bad_candidates_and_queries_are_told(retriever, pictures):
    with pytest.raises(ValueError, match="2 images"):
        retriever.add(images=pictures[:2], captions=["one"])
    with pytest.raises(ValueError, match="0 images"):
        retriever.add(captions=["one"])
    with pytest.raises(ValueError, match="are text"):
        retriever(pictures[0])
    report = retriever.add(images=["nowhere.png", pictures[0]], captions=["no", "yes"])
    assert (report["images"], len(report["skipped"])) == (1, 1)


@pytest.mark.parametrize("oldest", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_stranger_gets_the_same(parts, release, pictures, tmp_path, monkeypatch, oldest):
    monkeypatch.setattr(sys, "path", [*sys.path, str(Path(__file__).parent / "environments")])
    script = importlib.import_module("load_univl_dr")
    made = pipeline("multimodal-retrieval", model=parts[0], processor=parts[1])
    expected = script.embeddings(*parts, made, pictures[0])
    stranger = closure.link(tmp_path / "packages", "torch", "transformers", "torchvision")
    path = [floor_folder(), stranger] if oldest else [stranger]
    done = closure.run("load_univl_dr.py", pictures[0], tmp_path, release, path=path, work=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    for name in ("found", "again"):
        found = load_file(tmp_path / f"{name}.safetensors")
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(
                found[key], value, atol=1e-5, rtol=0, msg=lambda m, at=(name, key): f"{at}: {m}"
            )
