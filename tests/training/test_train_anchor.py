"""A run that trains the readout as the paper does and fits the anchored query over it."""

import json

import pytest
import torch
from safetensors.torch import load_file

from modeling_unimur import UniMuRModel, UniMuRProcessor
from modeling_unimur.training import query_anchor_fit
from modeling_unimur.training.recipes import load_recipe
from modeling_unimur.training.train_unimur import train
from tests.training.folder_run import write_pictures, write_recipe
from tests.training.test_alignment_data import chats

CONFIG = {
    "query_anchor": "encoder",
    "query_attention": 1.0,
    "query_correction": "mlp",
    "query_correction_size": 8,
    "query_gate": True,
}


@pytest.mark.parametrize(
    ("model", "data", "error", "word"),
    [
        ({"config": {"query_anchor": "encoder"}}, {}, ValueError, "anchor_texts"),
        ({}, {"anchor_texts": {"chats": 5}}, ValueError, "query_anchor"),
        ({"heads": "nowhere.safetensors"}, {}, FileNotFoundError, "nowhere.safetensors"),
    ],
)
def test_what_does_not_fit_is_told_before_anything_is_loaded(model, data, error, word, tmp_path):
    recipe = write_recipe(tmp_path / "recipe.yaml", tmp_path / "images", tmp_path / "lm", tmp_path / "clip")
    content = json.loads(recipe.read_text())
    content["model"] |= model
    content["data"] |= data
    recipe.write_text(json.dumps(content))
    with pytest.raises(error, match=word):
        train(load_recipe(recipe, [f"training.output_dir={tmp_path / 'run'}"]))


def test_readout_then_anchor_and_the_anchor_alone(tmp_path, monkeypatch, language_folder, clip_folder):
    monkeypatch.setenv("UNIMUR_CACHE", str(tmp_path / "cache"))
    recipe = write_recipe(
        tmp_path / "recipe.yaml", write_pictures(tmp_path / "images"), language_folder, clip_folder, max_steps=4
    )
    content = json.loads(recipe.read_text())
    mine = chats(tmp_path / "mine.jsonl", 60)
    content["data"] |= {"anchor_texts": {f"chats={mine}": 30}, "hard_negatives": 1}
    anchored, alone = tmp_path / "anchored", tmp_path / "alone"
    content["model"]["config"] = CONFIG
    recipe.write_text(json.dumps(content))
    results = train(load_recipe(recipe, [f"training.output_dir={anchored}"]))
    assert results["query_anchor"]["weights"]["chosen"] >= results["query_anchor"]["weights"]["encoder"]
    assert json.loads((anchored / "config.json").read_text())["query_anchor"] == "encoder"

    after = load_file(anchored / "model.safetensors")
    for checkpoint in anchored.glob("checkpoint-*"):  # the readout is trained as the query of the paper
        assert json.loads((checkpoint / "config.json").read_text())["query_anchor"] == "none"
        assert load_file(checkpoint / "model.safetensors").keys() == {key for key in after if "anchor" not in key}

    def refuse(*args):
        raise AssertionError("The dialogues were read again.")

    monkeypatch.setattr(query_anchor_fit, "_run", refuse)
    heads = f"model.heads={anchored / 'model.safetensors'}"
    again = train(load_recipe(recipe, [f"training.output_dir={alone}", heads, "training.max_steps=0"]))
    assert again["query_anchor"] == results["query_anchor"]
    for name, tensor in load_file(alone / "model.safetensors").items():
        torch.testing.assert_close(tensor, after[name], rtol=0, atol=1e-6)

    content["model"]["processor"] = {"readout_prompt": " in a word:"}  # the vectors are others
    recipe.write_text(json.dumps(content))
    with pytest.raises(AssertionError, match="read again"):
        train(load_recipe(recipe, [f"training.output_dir={tmp_path / 'other'}", heads, "training.max_steps=0"]))

    model, processor = UniMuRModel.from_pretrained(alone).eval(), UniMuRProcessor.from_pretrained(alone)
    assert model.heads.query_anchor.gate is not None
    with torch.no_grad():
        found = model.get_multimodal_features(**processor.process_queries(["a red cat"]))
    assert found.gate.shape == (1, 1)
    assert found.readout_embeds.shape == found.pooler_output.shape
