"""`unimur train`: what it asks before it trains, and a whole run on a folder of pictures."""

import json
from pathlib import Path

import pytest

from modeling_unimur.cli.main import main
from tests.cli.test_main import error_of
from tests.training.folder_run import write_pictures, write_recipe


@pytest.fixture
def recipe(tmp_path, language_folder, clip_folder, empty_cache):
    """A recipe whose run takes seconds; its output folder is `run`."""
    pictures = write_pictures(tmp_path / "pictures")
    run = {"output_dir": str(tmp_path / "run"), "max_steps": 4, "save_steps": 2, "eval_steps": 2}
    return write_recipe(tmp_path / "recipe.yaml", pictures, language_folder, clip_folder, **run)


def test_trains_resumes_and_starts_again(recipe, capsys, tmp_path):
    output = tmp_path / "run"
    assert main(["train", str(recipe)]) == 0
    told = capsys.readouterr().out
    assert json.loads(told[told.index("{\n") : told.rindex("Written")])["task"] == "unimur"
    results, weights = (output / "results.json").read_text(), (output / "model.safetensors").read_bytes()
    lines = json.loads((output / "training_log.json").read_text())
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]
    assert all("caption_loss" in line for line in lines if "loss" in line)

    status, error = error_of(capsys, "train", recipe)
    assert status == 2
    assert all(way in error for way in ("checkpoint-4", "--resume", "--overwrite", "training.output_dir"))

    (output / "results.json").unlink()
    assert main(["train", str(recipe), "--resume"]) == 0  # all steps are done: it measures and writes again
    assert (output / "results.json").read_text() == results
    assert (output / "model.safetensors").read_bytes() == weights
    lines = json.loads((output / "training_log.json").read_text())
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]

    assert main(["train", "--overwrite", str(recipe), "training.max_steps=2"]) == 0
    assert [path.name for path in output.glob("checkpoint-*")] == ["checkpoint-2"]
    capsys.readouterr()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--resume", "--overwrite"], "not allowed with"),
        (["data.sources=[folder=nowhere]"], "nowhere"),
        (["data.sources=[photos]"], "folder=PATH"),
        (["training.early_stopping_patience=0"], "early_stopping_patience"),
        (["training.resume_from_checkpoint=nowhere/checkpoint-3"], "nowhere/checkpoint-3"),
    ],
)
def test_what_a_person_can_get_wrong_is_one_line(words, told, recipe, capsys):
    assert main(["train", str(recipe), *words]) == 2
    error = capsys.readouterr().err.splitlines()[-1]  # bars of what loads may stand before it
    assert error.startswith("unimur: ")
    assert told in error


def test_a_recipe_that_is_not_there(capsys):
    assert "no recipe nowhere.yaml" in error_of(capsys, "train", "nowhere.yaml")[1]
    beside = str(Path(__file__).parents[2] / "recipes" / "unimur_min.yaml")
    assert "unimur_mini.yaml" in error_of(capsys, "train", beside)[1]


@pytest.mark.parametrize("count", [1, 2, 16])
def test_too_few_images_are_told_before_anything_is_computed(count, recipe, tmp_path, capsys):
    few = tmp_path / "few"
    few.mkdir()
    lines = (tmp_path / "pictures" / "captions.tsv").read_text().splitlines()[: count + 1]
    (few / "captions.tsv").write_text("\n".join(lines) + "\n")
    for line in lines[1:]:
        name = line.split("\t")[0]
        (few / name).write_bytes((tmp_path / "pictures" / name).read_bytes())
    assert main(["train", str(recipe), f"data.sources=[folder={few}]"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("unimur: ")
    assert f"{count} captioned images" in error or "per_device_train_batch_size" in error
