"""No command runs the Python of a model's folder, unless it is told to."""

import io
import json
import shutil

import pytest
from PIL import Image

from modeling_unimur.cli.main import main
from tests.data import published_files

COMMANDS = {
    "index search": ["index", "search", "a cat", "--index", "{index}", "--model", "{model}"],
    "index build": ["index", "build", "{images}", "--index", "{work}/new", "--model", "{model}"],
    "chat": ["chat", "--index", "{index}", "--model", "{model}"],
    "compare": ["compare", "--dialogues", "{compare}", "--gallery", "{images}", "--model", "{model}", "--no-times",
                "--systems", "unimur", "--output", "{work}/compared"],
    "evaluate": ["evaluate", "mmdialog", "--data", "{mmdialog}", "--model", "{model}", "--systems", "unimur",
                 "--output", "{work}/evaluated"],
    "demo": ["demo", "--images", "{images}", "--replies", "{replies}", "--dialogues", "{demo}", "--model",
             "{model}", "--output", "{work}/demo"],
}  # fmt: skip


@pytest.fixture(scope="module")
def planted(release_folder, tmp_path_factory):
    """A release each of whose Python files leaves a marker when it is run, an index, and sets."""
    work = tmp_path_factory.mktemp("planted")
    model, marker = work / "model", work / "marker"
    shutil.copytree(release_folder, model)
    for path in model.glob("*.py"):
        path.write_text(f"open({str(marker)!r}, 'a').write({path.name!r} + ' ')\n" + path.read_text())
    (work / "images").mkdir()
    for number, colour in enumerate(("red", "blue")):
        Image.new("RGB", (32, 32), colour).save(work / "images" / f"{number}.png")
    published_files.write_mmdialog(work / "mmdialog")
    (work / "replies.txt").write_text("hi\nno\n")
    turns = [{"role": "user", "content": "a cat"}]
    (work / "demo.jsonl").write_text(json.dumps({"title": "one", "messages": turns}) + "\n")
    (work / "compare.jsonl").write_text(json.dumps({"turns": turns, "gold_text": "hi"}) + "\n")
    assert main(["index", "build", str(work / "images"), "--index", str(work / "index"), "--model", str(model)]) == 0
    assert not marker.exists()
    return work


@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_runs_the_code_of_a_known_model(planted, name, tmp_path, monkeypatch):
    places = {part: planted / part for part in ("model", "index", "images", "mmdialog")}
    places |= {"work": tmp_path, "replies": planted / "replies.txt"}
    places |= {"demo": planted / "demo.jsonl", "compare": planted / "compare.jsonl"}
    monkeypatch.setattr("sys.stdin", io.StringIO("hi\n"))
    assert main([word.format(**places) for word in COMMANDS[name]]) == 0
    assert not (planted / "marker").exists()


def test_a_model_of_another_kind_needs_the_flag(planted, tmp_path, capsys):
    model = tmp_path / "other"
    shutil.copytree(planted / "model", model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "model_type": "unimur_of_others"}))
    argv = ["index", "search", "a cat", "--index", str(planted / "index"), "--model", str(model)]
    assert main(argv) == 2
    assert "--trust-remote-code" in capsys.readouterr().err
    assert not (planted / "marker").exists()
