"""`unimur reproduce` end to end on small sets in the published formats, with small backbones."""

import json
import re
from pathlib import Path

import pytest
import yaml

from modeling_unimur.cli import main as command
from modeling_unimur.cli import reproduce
from modeling_unimur.cli.main import main
from tests.data import published_files as files
from tests.data.webqa_files import write_pictures, write_raw, write_released
from tests.training.cc3m_files import write_tsv
from tests.training.univl_dr_set import write_recipe

pytestmark = pytest.mark.usefixtures("cache")


def write_unimur_recipe(path: Path, language_folder, clip_folder, **config) -> Path:
    training = {
        "max_steps": 2, "per_device_train_batch_size": 6, "eval_strategy": "no", "save_strategy": "steps",
        "save_steps": 1, "logging_steps": 1, "use_cpu": True, "output_dir": "nowhere",
    }  # fmt: skip
    model = {"language_model": str(language_folder), "clip": str(clip_folder), "config": config}
    path.write_text(yaml.safe_dump({"task": "unimur", "model": model, "data": {}, "training": training}))
    return path


@pytest.fixture
def unimur(tmp_path, language_folder, clip_folder) -> list[str]:
    """Arguments: a folder of data in its published forms, the paper's recipe and its ablation."""
    data = tmp_path / "data"
    for name, count, seed in (("cc3m_train", 24, 0), ("cc3m_val", 8, 1), ("cc3m_test", 8, 2)):
        write_tsv(data / "cc3m" / f"{name}.tsv", count, seed)
    files.write_mmdialog(data / "mmdialog")
    files.write_visdial(data / "visdial", dialogs=2, rounds=2, options=5)
    ours = write_unimur_recipe(tmp_path / "ours.yaml", language_folder, clip_folder)
    ablation = write_unimur_recipe(
        tmp_path / "ablation.yaml", language_folder, clip_folder, textual_matching_weight=0.0
    )
    words = ["reproduce", "unimur", "--data", data, "--recipe", ours, "--recipe", ablation]
    return [str(word) for word in [*words, "--output", tmp_path / "out"]]


def table_rows(output: Path) -> list[list[str]]:
    lines = (output / "table.md").read_text(encoding="utf-8").splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")][2:]


def test_unimur_and_its_ablation_beside_the_paper(unimur, tmp_path, capsys):
    output = tmp_path / "out"
    assert main([*unimur, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert not output.exists()
    assert "training: 2 steps" in shown
    assert "parameters" in shown
    assert shown.count("unimur evaluate") == 3

    assert main(unimur) == 0
    rows = {(row[0], row[2]): row for row in table_rows(output)}
    gain = rows["mmdialog, overall_r1", "UniMuR, gain"]
    assert gain[1] == "+6.5"
    assert gain[5] == "ours - ablation"
    ours, ablation = (
        next(
            row
            for row in json.loads((output / "mmdialog" / "results.json").read_text())["systems"]
            if row["name"] == n
        )
        for n in ("ours", "ablation")
    )
    difference = ours["figures"]["overall_r1"]["mean"] - ablation["figures"]["overall_r1"]["mean"]
    assert float(gain[4].split()[0]) == pytest.approx(difference, abs=0.06)
    assert rows["visdial, image2dialogue r1 all rounds", "UniMuR"][1] == "24.7 (inferred)"
    assert rows["visdial, image2dialogue r1 all rounds", "FROMAGe"][5] == "ablation"
    assert all(row[4] for row in rows.values() if row[5])

    kept = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file() and path.name != "table.md"}
    capsys.readouterr()
    assert main(unimur) == 0  # everything is there
    assert capsys.readouterr().out.count("is finished") == 5
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert main([*unimur, "--set", "training.max_steps=3"]) == 2
    assert "another --output" in capsys.readouterr().err


def test_a_killed_run_goes_on(unimur, tmp_path, monkeypatch, capsys):
    ran = []

    def killed(words):
        ran.append(words[:2])
        return 1 if words[0] == "evaluate" else main(words)

    monkeypatch.setattr(command, "main", killed)
    assert main(unimur) == 2
    assert "continues from here" in capsys.readouterr().err
    assert [words[0] for words in ran] == ["train", "train", "evaluate"]
    monkeypatch.undo()
    monkeypatch.setenv("UNIMUR_CACHE", str(tmp_path / "cache"))
    assert main(unimur) == 0
    assert capsys.readouterr().out.count("is finished") == 2


@pytest.mark.parametrize(("layout", "steps"), [("released", 1), ("raw", 4)])
def test_univl_dr_beside_the_paper(layout, steps, tmp_path, clip_folder, capsys):
    data = tmp_path / "webqa"
    data.mkdir()
    if layout == "released":
        write_released(data)
    else:
        write_raw(data)
    write_pictures(data, 12)
    training = {
        "per_device_train_batch_size": 2,
        "max_steps": -1,
        "num_train_epochs": 1,
        "eval_strategy": "no",
        "save_strategy": "no",
    }
    training |= {"load_best_model_at_end": False, "metric_for_best_model": None}
    choices = {"deduplicate": "none", "stage2_captions": "query", "final_figures": False}
    recipe = write_recipe(tmp_path / "tiny.yaml", data, clip_folder, data=choices, **training)
    words = ["reproduce", "univl-dr", "--data", data, "--recipe", recipe, "--output", tmp_path / "out"]
    assert main([str(word) for word in words]) == 0
    (told,) = re.findall(r"stage 2: (\d+) steps", capsys.readouterr().out)
    assert int(told) == steps
    rows = {(row[0], row[2]): row for row in table_rows(tmp_path / "out")}
    assert rows["webqa, both mrr@10", "UniVL-DR"][1:2] == ["62.4"]
    named = {row[2]: row[5] for row in rows.values()}
    assert named["UniVL-DR"] == "tiny"
    assert named["CLIP-DPR (stage 1)"] == "stage1"
    assert named["BM25 & CLIP-DPR"] == "BM25 & stage1"
    assert all(row[4] for row in rows.values())
    about = json.loads((tmp_path / "out" / "webqa" / "results.json").read_text())["data"]
    assert about["deduplicate"] == "none"
    assert about["captions"] == {"released": "query", "raw": "raw"}[layout]


@pytest.mark.parametrize(
    ("words", "token"),
    [
        (["unimur", "--data", "nowhere"], "cc3m/"),
        (["unimur", "--data", "EMPTY"], "cc3m_train.tsv"),
        (["univl-dr", "--data", "EMPTY"], "WebQA"),
        (["univl-dr", "--data", "EMPTY", "--limit", "3"], "--limit"),
        (["unimur", "--data", "EMPTY", "--recipe", "a.yaml", "--recipe", "b/a.yaml"], "--recipe"),
        (["unimur", "--data", "CC3M"], "mmdialog/"),
        (["unimur", "--data", "WHOLE", "--recipe", "UNIVL"], "task univl_dr"),
    ],
)
def test_wrong_arguments_are_one_line(words, token, tmp_path, clip_folder, capsys):
    places = {"EMPTY": tmp_path / "empty", "CC3M": tmp_path / "half", "WHOLE": tmp_path / "whole"}
    for folder in places.values():
        folder.mkdir()
    for name in ("CC3M", "WHOLE"):
        write_tsv(places[name] / "cc3m" / "cc3m_train.tsv", 2)
    (places["WHOLE"] / "mmdialog").mkdir()
    places["UNIVL"] = write_recipe(tmp_path / "univl.yaml", tmp_path, clip_folder)
    assert main(["reproduce", *(str(places.get(word, word)) for word in words)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert token in error


def test_without_the_source_a_recipe_is_named(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(reproduce._RECIPES, "unimur", ("not_shipped",))
    assert main(["reproduce", "unimur", "--data", str(tmp_path)]) == 2
    assert "--recipe" in capsys.readouterr().err
