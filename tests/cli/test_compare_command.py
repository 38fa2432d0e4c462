"""`unimur compare` from the command line, on the small random model."""

import json

import pytest

from modeling_unimur.cli.main import main


@pytest.fixture
def dialogues(tmp_path, pictures):
    lines = [
        {
            "turns": [{"role": "user", "content": f"show me number {n}"}, {"role": "assistant", "content": "why?"}],
            "gold_image": path,
            "gold_text": f"here is number {n}",
        }
        for n, path in enumerate(pictures)
    ]
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def test_compare(dialogues, release_folder, tmp_path, capsys):
    output = tmp_path / "out"
    argv = ["compare", "--dialogues", dialogues, "--model", release_folder, "--output", output]
    assert main([*map(str, argv), "--systems", "unimur,bm25,clip-whole,clip-last"]) == 0
    shown = capsys.readouterr().out
    for name in ("BM25", "CLIP-T, last turn", "CLIP-T, whole dialogue", "UniMuR"):
        assert name in shown
        assert f"{name} sees " in shown
    assert "minus CLIP-T, whole dialogue" in shown
    assert "sentence-transformers is left out" in shown
    rows = {row["name"]: row for row in json.loads((output / "results.json").read_text())["systems"]}
    assert all(row["scalars"]["ms a turn"] > 0 for row in rows.values())
    assert rows["BM25"]["figures"]["text r1"]["mean"] == 100  # the number stands in both
    assert (output / "table.md").read_text().startswith("# dialogues")


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["--systems", "bm26"], "bm26"),
        (["--systems", ","], "choose from"),
        (["--model", "no_such_folder"], "no_such_folder"),
        (["--linear-texts", "0"], "--linear-texts"),
        (["--output", __file__], "test_compare_command.py"),
        (["--dialogues", "no_such_file"], "no_such_file"),
    ],
)
def test_bad_arguments_are_one_line(argv, named, release_folder, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv = argv if "--model" in argv else ["--model", str(release_folder), *argv]
    assert main(["compare", *argv]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert named in error
