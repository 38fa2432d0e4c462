"""Recipes: typed, with overrides, with errors that name the section."""

from pathlib import Path

import pytest

from modeling_unimur.data.cache import cache_dir
from modeling_unimur.training.recipes import load_recipe

RECIPES = sorted((Path(__file__).resolve().parents[2] / "recipes").glob("*.yaml"))

_NEVER_SAVE = ["training.save_strategy=no", "training.eval_strategy=no", "training.load_best_model_at_end=false"]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_committed_recipe_is_valid(path):
    recipe = load_recipe(path)
    assert recipe.training.seed == 0
    assert not recipe.model.clip.startswith("$")


def test_override_wins_and_the_cache_is_filled_in():
    recipe = load_recipe(RECIPES[0], ["training.max_steps=7", "training.learning_rate=0.5", *_NEVER_SAVE])
    assert recipe.training.save_strategy == "no"
    assert (recipe.training.max_steps, recipe.training.learning_rate) == (7, 0.5)
    assert recipe.model.clip.startswith(str(cache_dir()))


@pytest.mark.parametrize(("written", "value"), [("1e-3", 1e-3), ("2E+1", 20.0), ("1.5e3", 1500.0), (".5", 0.5)])
def test_a_number_with_an_exponent_is_a_number(tmp_path, written, value):
    recipe = load_recipe(RECIPES[0], [f"training.learning_rate={written}", *_NEVER_SAVE])
    assert recipe.training.learning_rate == value
    path = tmp_path / "recipe.yaml"
    path.write_text(f"task: clip\nmodel: {{clip: a1e-3}}\ntraining: {{learning_rate: {written}, use_cpu: true}}\n")
    recipe = load_recipe(path)
    assert (recipe.training.learning_rate, recipe.model.clip) == (value, "a1e-3")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("task: paint\n", "task must"),
        ("task: clip\nmodle: {}\n", "modle"),
        ("task: clip\nmodel: {clip: x, colour: red}\n", "section `model`"),
        ("task: clip\nmodel: {clip: x}\ntraining: {learning_rat: 1}\n", "learning_rat"),
        ("task: unimur\nmodel: {clip: x}\n", "language_model"),
        # Keys of another task.
        ("task: unimur\nmodel: {clip: x, language_model: y}\ndata: {images: z}\n", "images"),
        ("task: unimur\nmodel: {clip: x, language_model: y, image_head: {}}\n", "image_head"),
        ("task: clip\nmodel: {clip: x, language_model: y}\n", "language_model"),
        ("task: clip\nmodel: {clip: x}\ndata: {texts: [words]}\n", "texts"),
        ("task: clip\nmodel: {clip: x}\ndata: {feature_dtype: int8}\n", "feature_dtype"),
        ("task: clip\nmodel: {clip: x}\ndata: {feature_batch_size: 0}\n", "at least 1"),
        ("task: unimur\nmodel: {clip: x, language_model: y}\ndata: {refit_texts: [words]}\n", "refit_readout"),
        ("task: unimur\nmodel: {clip: x, language_model: y}\ndata: {train_readout: false}\n", "closed_form_start"),
        ("task: [clip\n", "is not YAML"),
        ("", "task"),
    ],
)
def test_a_wrong_recipe_is_told(tmp_path, text, words):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=words):
        load_recipe(path)


def test_a_missing_recipe_and_a_bad_override_are_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.yaml"):
        load_recipe(tmp_path / "nowhere.yaml")
    with pytest.raises(ValueError, match="not YAML"):
        load_recipe(RECIPES[0], ["training.max_steps=[7"])
    with pytest.raises(ValueError, match=r"section\.field=value"):
        load_recipe(RECIPES[0], ["max_steps=7"])
