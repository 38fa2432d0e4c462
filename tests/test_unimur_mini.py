"""The real UniMuR-mini, assembled from packaged weights and the committed heads."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import pipeline

from conversion.assemble_unimur_mini import HEADS, assemble, backbones
from modeling_unimur import UniMuRModel, UniMuRProcessor
from tests.rounding import assert_same_outputs, assert_same_weights
from unimur_mini.openmoji import load_openmoji

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def folder():
    return assemble()


@pytest.fixture(scope="module")
def retriever(folder):
    return pipeline("multimodal-retrieval", model=str(folder), trust_remote_code=True)


@pytest.fixture(scope="module")
def emoji():
    wanted = {
        "cat",
        "guitar",
        "bicycle",
        "umbrella",
        "rocket",
        "sunflower",
        "birthday cake",
        "hammer",
        "sailboat",
        "pizza",
    }
    rows = load_openmoji()
    return {row["title"]: row["image"] for row in rows if row["title"] in wanted}


def test_finds_the_picture_that_is_named(retriever, emoji):
    assert len(emoji) >= 8
    retriever.add(images=list(emoji.values()), image_ids=list(emoji))
    answers = retriever(list(emoji), top_k=1, modality="image")
    right = sum(answer["image"][0]["id"] == title for title, answer in zip(emoji, answers, strict=True))
    assert right >= 0.7 * len(emoji)  # one in ten by chance


def test_a_picture_in_the_context_changes_the_ranking(retriever, emoji):
    retriever.add(images=list(emoji.values()), image_ids=list(emoji))

    def ranked(title):
        message = [{"type": "text", "text": "look at this"}, {"type": "image", "image": emoji[title]}]
        found = retriever([{"role": "user", "content": message}], top_k=5, modality="image")
        return [hit["id"] for hit in found["image"]]

    assert ranked("guitar") != ranked("sunflower")


def test_heads_only_and_full_release_agree(folder):
    language_model, clip = map(str, backbones())
    processor = UniMuRProcessor.from_pretrained(folder)
    full = UniMuRModel.from_pretrained(folder)
    heads = UniMuRModel.from_pretrained(HEADS, language_model=language_model, clip=clip)
    batch = processor.process_context(
        ["a purring animal", "مرحبا 🎉", [{"role": "user", "content": "it rains again"}]]
    )
    with torch.inference_mode():
        one, other = (m.get_multimodal_features(**batch).pooler_output for m in (full, heads))
    assert_same_weights(heads.state_dict(), full.state_dict())
    assert_same_outputs(one, other)


def test_committed_heads_are_small_named_and_complete():
    folders = (HEADS, HEADS.with_name("clip-lite2-minilm"))
    size = sum(path.stat().st_size for folder in folders for path in folder.glob("*.safetensors"))
    assert size < 12_000_000
    config = json.loads((HEADS / "config.json").read_text())
    assert config["heads_only"] is True
    assert not any(
        "/" in str(part.get("_name_or_path") or "") for part in (config["text_config"], config["clip_config"])
    )
    assert all(key.startswith("heads.") for key in load_file(HEADS / "model.safetensors"))


def test_trained_heads_beat_untrained_ones_many_times_over():
    results = json.loads((HEADS / "results.json").read_text())
    assert results["test"]["title_image_r10"] > 5 * results["test_untrained"]["title_image_r10"]
    assert results["test"]["title_title_r10"] > 5 * results["test_untrained"]["title_title_r10"]


def test_captions_tell_pictures_apart(folder, emoji):
    processor, model = UniMuRProcessor.from_pretrained(folder), UniMuRModel.from_pretrained(folder)
    prompt = processor.process_caption_prompt([emoji["cat"], emoji["rocket"]])
    texts = processor.tokenizer.batch_decode(model.generate(**prompt, max_new_tokens=8), skip_special_tokens=True)
    assert texts[0] != texts[1]


@pytest.mark.slow
def test_assembles_again_at_once(folder):
    command = [sys.executable, str(ROOT / "conversion" / "assemble_unimur_mini.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip().splitlines()[-1]) == folder


def test_generates_text_after_a_picture(folder, emoji):
    processor, model = UniMuRProcessor.from_pretrained(folder), UniMuRModel.from_pretrained(folder)
    prompt = processor.process_caption_prompt([emoji["cat"], emoji["rocket"]])
    new = model.generate(**prompt, max_new_tokens=8)
    assert new.shape[0] == 2
    assert all(text.strip() for text in processor.tokenizer.batch_decode(new, skip_special_tokens=True))
