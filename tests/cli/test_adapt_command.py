"""`unimur adapt` from the command line, on a small random language model."""

import json

import numpy as np
import pytest
from transformers import pipeline

from modeling_unimur.cli.main import main
from tests.training import colour_index


@pytest.fixture
def files(tmp_path):
    """Vectors and texts as a person has them."""
    np.save(tmp_path / "vectors.npy", 3 * colour_index.vectors())
    lines = [json.dumps({"id": f"sku-{n}", "text": text}) for n, text in enumerate(colour_index.texts())]
    (tmp_path / "texts.jsonl").write_text("\n".join(lines))
    return tmp_path


def test_adapt_prints_what_it_found_and_how_to_query(files, language_folder, capsys):
    out = files / "heads"
    argv = ["adapt", files / "vectors.npy", "--texts", files / "texts.jsonl", "--language-model", language_folder]
    argv += ["--output", out, "--contexts", 200]
    assert main(list(map(str, argv))) == 0
    shown = capsys.readouterr().out
    for words in ("64 texts of 12 numbers", "a random order", "heads before anything", "heads, sharpened", "Written"):
        assert words in shown
    assert "Note: The vectors are not normalised (lengths 3 to 3, median 3)" in shown
    assert f'load_index("{out / "index"}")' in shown
    retriever = pipeline("multimodal-retrieval", model=str(out), trust_remote_code=True)
    retriever.load_index(out / "index")
    assert retriever("a blue cake", top_k=1)["text"][0]["id"].startswith("sku-")
    assert main(list(map(str, [*argv, "--no-index"]))) == 0  # its own output may be replaced
    assert "heads, closed form" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (["--texts", "no_such.jsonl"], "no_such.jsonl"),
        (["--chats", "no_such.jsonl"], "no_such.jsonl"),
        (["--chats", "texts.jsonl"], "encoder"),
        (["--texts", "few.txt"], "2 texts for 64 vectors"),
        (["--language-model", "no_such_model"], "no_such_model"),
        (["--contexts", "none"], "--contexts"),
        (["--kind", "sound"], "sound"),
        (["--output", "texts.jsonl"], "is a file"),
    ],
)
def test_what_a_person_can_get_wrong_is_one_line(change, named, files, language_folder, capsys, monkeypatch):
    monkeypatch.chdir(files)
    (files / "few.txt").write_text("one\ntwo\n")
    given = {"--texts": "texts.jsonl", "--language-model": str(language_folder), "--output": "heads"}
    given[change[0]] = change[1]
    assert main(["adapt", "vectors.npy", *(word for pair in given.items() for word in pair)]) == 2
    error = capsys.readouterr().err
    assert named in error.splitlines()[-1]
    assert error.splitlines()[-1].startswith("unimur: ")
    assert "Traceback" not in error
    assert not (files / "heads").exists()


def test_vectors_that_are_not_there(capsys):
    argv = ["adapt", "no_such.npy", "--language-model", "x", "--output", "y"]
    assert main(argv) == 2
    assert "no_such.npy" in capsys.readouterr().err
