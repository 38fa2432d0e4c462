"""`unimur evaluate` from the command line, on the small random model."""

import json

import pytest
from huggingface_hub import ModelCard

from modeling_unimur.cli.main import main
from tests.data import published_files as files


def call(*argv):
    return main(["evaluate", *map(str, argv)])


@pytest.fixture
def mmdialog(tmp_path):
    files.write_mmdialog(tmp_path / "mm")
    return tmp_path / "mm"


def test_a_task_with_every_system_then_a_table_and_a_card(mmdialog, release_folder, tmp_path, capsys):
    card = tmp_path / "README.md"
    card.write_text("---\nlicense: apache-2.0\n---\n# A model\n")
    argv = ["mmdialog", "--model", release_folder, "--data", mmdialog, "--over-return", 50]
    assert call(*argv, "--output", tmp_path / "one", "--systems", "unimur,clip-last,bm25", "--card", card) == 0
    shown = capsys.readouterr().out
    for name in (release_folder.name, "CLIP-T, last turn", "BM25", "overall_r1@over50", "4 dialogues of 10,000"):
        assert name in shown
    record = json.loads((tmp_path / "one" / "results.json").read_text())
    assert record["systems"][0]["revision"].startswith("sha256:")
    assert record["systems"][0]["source"] == str(release_folder)
    assert {entry.metric_name for entry in ModelCard.load(card).data.eval_results} >= {"text_r1", "image_r1"}
    kept = sorted((tmp_path / "one" / "batches").rglob("*.safetensors"))
    assert kept
    before = [path.stat().st_mtime_ns for path in kept]

    assert call(*argv, "--output", tmp_path / "one", "--systems", "unimur,clip-last,bm25") == 0  # goes on where it was
    assert [path.stat().st_mtime_ns for path in kept] == before
    assert call(*argv, "--output", tmp_path / "two", "--systems", "chance") == 0
    capsys.readouterr()
    assert call("table", "--runs", tmp_path / "one", tmp_path / "two", "--output", tmp_path / "all") == 0
    assert "chance" in capsys.readouterr().out
    merged = (tmp_path / "all" / "table.md").read_text()
    assert f"minus {release_folder.name}" in merged
    assert "CLIP-T, last turn" in merged


def test_two_models_of_like_names_have_their_whole_address(mmdialog, release_folder, tmp_path):
    twin = tmp_path / "elsewhere" / release_folder.name
    twin.parent.mkdir()
    twin.symlink_to(release_folder)
    argv = ["mmdialog-images", "--model", release_folder, "--model", twin, "--data", mmdialog, "--systems", "unimur"]
    assert call(*argv, "--output", tmp_path / "out") == 0
    record = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [row["name"] for row in record["systems"]] == [str(release_folder), str(twin)]


def test_answers_and_visdial(release_folder, tmp_path, capsys):
    files.write_visdial(tmp_path / "vis", dialogs=2, rounds=2, options=5)
    argv = ["--model", release_folder, "--data", tmp_path / "vis", "--systems", "unimur,chance"]
    assert call("visdial-answers", *argv, "--output", tmp_path / "a") == 0
    assert "ndcg" in capsys.readouterr().out
    assert call("visdial", *argv, "--output", tmp_path / "b", "--rounds", "1,0", "--form", "fromage") == 0
    assert "image2dialogue r1 all rounds" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["nothing"], "unknown task"),
        (["mmdialog"], "--data PATH is missing"),
        (["mmdialog", "--data", "x"], "--output FOLDER is missing"),
        (["mmdialog", "--data", "x", "--output", "OUT", "--systems", "x"], "choose from unimur"),
        (["mmdialog", "--data", "x", "--output", "OUT", "--rounds", "x"], "numbers with commas"),
        (["mmdialog", "--data", "x", "--output", "OUT", "--over-return", "200"], "percentage"),
        (["mmdialog", "--data", "x", "--output", "OUT", "--model", "nowhere"], "no model folder at nowhere"),
        (["table", "--output", "OUT"], "--runs"),
        (["table", "--output", "OUT", "--runs", "nowhere"], "no results"),
    ],
)
def test_wrong_arguments_are_one_line(argv, message, tmp_path, capsys):
    assert call(*[str(tmp_path) if word == "OUT" else word for word in argv]) == 2
    error = capsys.readouterr().err
    assert error.startswith("unimur: ")
    assert error.count("\n") == 1
    assert message in error


def test_data_that_is_not_there(release_folder, tmp_path, capsys):
    argv = ["vist", "--model", release_folder, "--data", tmp_path, "--output", tmp_path, "--systems", "chance"]
    assert call(*argv) == 2
    assert "VIST's split val is not there" in capsys.readouterr().err
