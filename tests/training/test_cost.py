"""Estimates of what a run costs, against the figures of docs/scaling.md and docs/univl_dr.md."""

from pathlib import Path

import pytest
import torch
from transformers import CLIPConfig

from modeling_unimur import UniMuRModel, UniMuRProcessor
from modeling_unimur.training.cost import estimate_cost, matrix_speed
from modeling_unimur.training.recipes import load_recipe
from tests.training.test_big_recipes import BIG, CLIP_L14, OPT_6_7B, RECIPES
from tests.training.univl_dr_set import write_recipe

CLIP_B32 = CLIPConfig(projection_dim=512)  # its defaults


def configurations(folder: Path, text, clip) -> dict[str, str]:
    for name, config in (("lm", text), ("clip", clip)):
        config.save_pretrained(folder / name)
    return {"model.language_model": str(folder / "lm"), "model.clip": str(folder / "clip")}


def test_the_paper_costs_what_the_docs_say(tmp_path):
    """docs/scaling.md: OPT-6.7B and CLIP ViT-L/14, captions of 24 tokens, batch 180."""
    chosen = configurations(tmp_path, OPT_6_7B, CLIP_L14) | {"training.per_device_train_batch_size": 180}
    recipe = load_recipe(BIG["unimur_opt6.7b_clip_l14_cc3m"], [f"{name}={value}" for name, value in chosen.items()])
    cost = estimate_cost(recipe, 3_318_333)
    assert cost.trained == 7_348_993
    assert cost.parameters == 7_348_993 + 6_658_473_984 + 427_616_513
    assert cost.flop["training"] == pytest.approx(181e12, rel=0.01)
    sizes = [
        cost.memory[name] / 1e9 for name in ("language model", "key-value cache", "activations", "heads and AdamW")
    ]
    assert sizes == pytest.approx([13.3, 2.3, 11.3, 0.1], abs=0.06)
    assert cost.steps == {"training": 20_000}
    assert cost.once / 3_318_333 == pytest.approx(2 * (81e9 + 7e9), rel=0.06)
    shown = "\n".join(cost.lines(989e12))
    assert "0.37 s each" in shown
    assert "7,348,993 train" in shown


def test_univl_dr_costs_what_the_docs_say(tmp_path):
    """docs/univl_dr.md: 31,766 queries, 20 epochs per stage, batch 64."""
    CLIP_B32.save_pretrained(tmp_path / "clip")
    recipe = load_recipe(RECIPES / "univl_dr_webqa.yaml", [f"model.clip={tmp_path / 'clip'}"])
    cost = estimate_cost(recipe, 31_766)
    assert cost.memory["weights and AdamW"] / 1e9 == pytest.approx(2.4, abs=0.05)
    assert cost.memory["activations"] / 1e9 == pytest.approx(12.5, rel=0.06)
    assert sum(cost.steps.values()) == pytest.approx(2 * 9_920, rel=0.01)
    assert [flop / 1e12 for flop in cost.flop.values()] == pytest.approx([3.1, 6.9], rel=0.05)


def test_weights_are_counted_as_the_model_has_them(tmp_path, language_folder, clip_folder):
    recipe = load_recipe(
        BIG["unimur_opt6.7b_clip_l14_cc3m"], [f"model.language_model={language_folder}", f"model.clip={clip_folder}"]
    )
    cost = estimate_cost(recipe)
    made = UniMuRProcessor.from_backbones(str(language_folder), str(clip_folder))
    model = UniMuRModel.from_backbones(str(language_folder), str(clip_folder), processor=made, **recipe.model.config)
    assert cost.parameters == sum(weight.numel() for weight in model.parameters())
    assert cost.once == 0  # unknown rows


def test_what_cannot_be_estimated_is_an_error(tmp_path, clip_folder):
    path = write_recipe(tmp_path / "run.yaml", tmp_path, clip_folder)
    epochs = ["training.max_steps=-1", "training.num_train_epochs=2"]
    assert estimate_cost(load_recipe(path, epochs), 17).steps == {"stage 1": 4, "stage 2": 4}
    more = [*epochs, "training.gradient_accumulation_steps=2", "training.dataloader_drop_last=false"]
    assert estimate_cost(load_recipe(path, more), 17).steps == {"stage 1": 4, "stage 2": 4}
    with pytest.raises(ValueError, match="rows"):
        estimate_cost(load_recipe(path, epochs))
    with pytest.raises(ValueError, match="image_tower"):
        estimate_cost(load_recipe(path, ["model.image_tower=frozen"]))
    clip_recipe = load_recipe(RECIPES / "clip_photos.yaml", ["data.images=x"])
    with pytest.raises(ValueError, match="clip"):
        estimate_cost(clip_recipe)


def test_the_speed_of_a_matrix_product_is_measured():
    assert matrix_speed(torch.float32, seconds=0.05) > 1e8
