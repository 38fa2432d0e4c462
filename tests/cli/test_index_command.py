"""`unimur index`: build, update and search from the command line."""

import json

import pytest

from modeling_unimur.cli.errors import CommandError
from modeling_unimur.cli.index import read_conditions
from modeling_unimur.cli.main import main
from tests.encoding.corpora import picture, picture_folder


def test_build_update_and_search(release_folder, tmp_path, capsys):
    corpus, index = picture_folder(tmp_path / "corpus", 4), str(tmp_path / "index")
    (corpus / "bad.png").write_text("x")
    common = ["--model", str(release_folder), "--index", index]
    assert main(["index", "update", str(corpus), *common]) == 2
    assert "unimur index build" in capsys.readouterr().err
    assert main(["index", "build", str(corpus), *common, "--kind", "HNSW16", "--workers", "0"]) == 0
    shown = capsys.readouterr().out
    assert "4 items in" in shown
    assert "1 items were skipped" in shown
    (corpus / "a" / "0.png").unlink()
    picture(corpus / "new.png", 9)
    assert main(["index", "update", str(corpus), *common]) == 0
    assert "1 added, 0 replaced, 1 removed" in capsys.readouterr().out
    lines = [{"id": f"t{n}", "text": f"text {n}", "year": 2000 + n} for n in range(3)]
    (tmp_path / "texts.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert main(["index", "build", str(tmp_path / "texts.jsonl"), *common]) == 0
    capsys.readouterr()
    assert main(["index", "search", "hello", *common, "--image", str(corpus / "new.png"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {hit["id"] for hit in found["image"]} == {"a/2.png", "b/1.png", "b/3.png", "new.png"}
    assert len(found["text"]) == 3
    assert main(["index", "search", "hello", *common, "--modality", "joint", "--where", "year>=2001"]) == 0
    shown = capsys.readouterr().out
    assert "text 2" in shown
    assert "text 0" not in shown
    assert "png" not in shown
    assert main(["index", "search", "hello", *common, "--coherent", "--json"]) == 0
    assert all("cosine" in hit for hits in json.loads(capsys.readouterr().out).values() for hit in hits)
    assert main(["index", "search", "hello", *common, "--modality", "pair", "--top-k", "1"]) == 0
    title, line = capsys.readouterr().out.splitlines()[-2:]
    assert title == "pair:"
    assert "text " in line
    assert ".png" in line


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["search", "hello"], "index build SOURCE --index"),
        (["search"], "what to search for"),
        (["build", "/nowhere/at/all"], "There is no"),
        (["build", ".", "--batch-size", "0"], "positive integer"),
        (["build", ".", "--engine", "spark"], "spark"),
        ([], "ACTION"),
    ],
)
def test_mistakes_are_one_line(release_folder, tmp_path, capsys, arguments, word):
    where = ["--model", str(release_folder), "--index", str(tmp_path / "index")] if arguments else []
    assert main(["index", *arguments, *where]) == 2
    error = capsys.readouterr().err.strip()
    assert word in error
    assert "\n" not in error


def test_conditions():
    words = ["licence=cc0", "year>=2020", "year<2024", "free=true", "name=a=b"]
    assert read_conditions(words) == {
        "licence": "cc0", "year": {"gte": 2020, "lt": 2024}, "free": True, "name": "a=b",
    }  # fmt: skip
    with pytest.raises(CommandError, match="--where cc0"):
        read_conditions(["cc0"])
