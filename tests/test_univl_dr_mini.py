"""The real UniVL-DR-mini, assembled from the small dual encoder and the committed tensors."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import pipeline

from conversion import assemble_univl_dr_mini
from conversion.assemble_univl_dr_mini import ARGUMENTS, TRAINED, assemble, take
from modeling_unimur import UniVLDRModel, UniVLDRProcessor

PASSAGES = [
    "Feathering a selection makes its border gradual: pixels near the edge are selected partly.",
    "The Clone tool uses the current brush to copy from an image or pattern.",
    "Saving an image as JPEG loses information; choose a quality between 0 and 100.",
    "Drag a guide from the ruler into the image window.",
]


@pytest.fixture(scope="module")
def folder():
    return assemble()


def test_finds_passages_of_a_manual(folder, pictures):
    retriever = pipeline("multimodal-retrieval", model=str(folder), trust_remote_code=True)
    retriever.add(texts=PASSAGES, images=pictures[:2], captions=["The Save dialog", "Guides in the image window"])
    for query, passage in (
        ("how do I make the edges of a selection soft?", 0),
        ("retouch a photograph by painting with a part of another picture", 1),
        ("which compression level for photographs?", 2),
    ):
        assert retriever(query, modality="joint", top_k=1)[0]["id"] == PASSAGES[passage]
    assert retriever("Save dialog", modality="image", top_k=1)["image"][0]["id"] == pictures[0]


def test_committed_tensors_are_small_and_what_was_trained(folder):
    trained = load_file(TRAINED)
    assert TRAINED.stat().st_size < 12_000_000
    assert {tensor.dtype for tensor in trained.values()} == {torch.float16}
    weights = UniVLDRModel.from_pretrained(folder).state_dict()
    for name, tensor in trained.items():
        assert torch.equal(weights[name], tensor.float())
    arguments = json.loads(ARGUMENTS.read_text())
    processor = UniVLDRProcessor.from_pretrained(folder)
    assert processor.max_target_tokens == arguments["processor"]["max_target_tokens"]


def test_what_a_run_trained_is_taken(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(assemble_univl_dr_mini, "CARD_FOLDER", tmp_path)
    monkeypatch.setattr(assemble_univl_dr_mini, "TRAINED", tmp_path / TRAINED.name)
    monkeypatch.setattr(assemble_univl_dr_mini, "ARGUMENTS", tmp_path / ARGUMENTS.name)
    take(folder)
    assert json.loads((tmp_path / ARGUMENTS.name).read_text()) == json.loads(ARGUMENTS.read_text())
    again, committed = load_file(tmp_path / TRAINED.name), load_file(TRAINED)
    assert set(again) <= set(committed)  # a tensor may have been trained and be the same in float16
    for name, tensor in again.items():
        assert torch.equal(tensor, committed[name])
