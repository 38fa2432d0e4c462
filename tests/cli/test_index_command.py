"""`unimur index`: build, update and search from the command line."""

import io
import json

import pytest

from modeling_unimur.cli.errors import CommandError
from modeling_unimur.cli.index import read_conditions, read_questions
from modeling_unimur.cli.main import main
from tests import tiny
from tests.encoding.corpora import image_folder, picture
from tests.index.databases import DATABASES, database


def test_build_update_and_search(release_folder, tmp_path, capsys):
    corpus, index = image_folder(tmp_path / "corpus", 4), str(tmp_path / "index")
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


def test_words_are_searched_too_and_their_weight_is_chosen(release_folder, tmp_path, capsys):
    lines = [{"id": f"t{n}", "text": text} for n, text in enumerate(("a harbour", "a lighthouse", "red bread"))]
    (tmp_path / "texts.jsonl").write_text("\n".join(map(json.dumps, lines)))
    common = ["--model", str(release_folder), "--index", str(tmp_path / "index")]
    assert main(["index", "build", str(tmp_path / "texts.jsonl"), *common, "--bm25"]) == 0
    capsys.readouterr()
    assert main(["index", "search", "bread", *common, "--hybrid", "1", "--json"]) == 0
    (hit,) = json.loads(capsys.readouterr().out)["text"]
    assert (hit["id"], hit["score"]) == ("t2", 1.0)
    assert main(["index", "search", "bread", *common, "--hybrid", "rrf", "--modality", "joint"]) == 0
    assert "red bread" in capsys.readouterr().out
    second = str(tiny.cross_encoder(tmp_path / "second"))
    assert main(["index", "search", "bread", *common, "--hybrid", "rrf", "--reranker", second, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["text"]
    assert sorted(found, key=lambda hit: -hit["score"]) == found
    assert all({"first_score", "bm25", "cosine"} <= hit.keys() for hit in found)
    assert main(["index", "search", "bread", *common, "--reranker", str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err
    questions = [{"query": "bread", "ids": ["t2"]}, {"query": "lighthouse", "ids": ["t1", "gone"]}]
    (tmp_path / "questions.jsonl").write_text("\n".join(map(json.dumps, questions)))
    tune = ["index", "tune-hybrid", str(tmp_path / "questions.jsonl"), *common]
    assert main([*tune, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["questions"], found["missing_ids"]) == (2, 1)
    assert found["measures"]["1.0"] == {"mrr": 1.0, "recall": 0.75}
    assert found["measures"][str(found["hybrid"])]["mrr"] == 1.0
    assert main([*tune, "--modality", "text"]) == 0
    shown = capsys.readouterr().out
    assert "vectors alone" in shown
    assert "BM25 alone" in shown
    assert f"--hybrid {found['hybrid']:g}" in shown
    (tmp_path / "questions.jsonl").write_text('{"query": "bread", "ids": ["gone"]}')
    assert main(tune) == 2
    assert "gone" in capsys.readouterr().err


@pytest.mark.parametrize(
    "line", ["", "[]", '{"query": "a"}', '{"query": " ", "ids": ["a"]}', '{"query": "a", "ids": [1]}']
)
def test_questions_name_their_line(tmp_path, line):
    (tmp_path / "questions.jsonl").write_text(line)
    with pytest.raises(CommandError, match="line 1" if line else "no questions"):
        read_questions(str(tmp_path / "questions.jsonl"))


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["search", "hello"], "index build SOURCE --index"),
        (["search"], "what to search for"),
        (["build", "/nowhere/at/all"], "There is no"),
        (["build", ".", "--batch-size", "0"], "positive integer"),
        (["build", ".", "--engine", "spark"], "spark"),
        (["search", "hello", "--hybrid", "2"], "rrf"),
        ([], "ACTION"),
    ],
)
def test_mistakes_are_one_line(release_folder, tmp_path, capsys, arguments, word):
    where = ["--model", str(release_folder), "--index", str(tmp_path / "index")] if arguments else []
    assert main(["index", *arguments, *where]) == 2
    error = capsys.readouterr().err.strip()
    assert word in error
    assert "\n" not in error


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["build", "texts.jsonl", "--index", "qdrant+:memory:"], "gone after the build"),
        (["build", "texts.jsonl", "--index", "lancedb+memory://"], "gone after the build"),
        (["build", "texts.jsonl", "--index", "lancedb://items"], "lancedb+PLACE"),
        (["search", "hello", "--index", "qdrnt+items"], "qdrant+PLACE"),
        (["search", "hello", "--index", "items.db", "--hybrid", "0.5"], "hybrid search"),
        (["tune-hybrid", "questions.jsonl", "--index", "items.db"], "hybrid search"),
    ],
)
def test_mistakes_in_addresses_are_told_before_the_model_is_loaded(
    release_folder, tmp_path, capsys, monkeypatch, arguments, word
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("modeling_unimur.cli.retriever.open_retriever", None)
    (tmp_path / "texts.jsonl").write_text('{"id": "t", "text": "a harbour"}')
    (tmp_path / "questions.jsonl").write_text('{"query": "bread", "ids": ["t2"]}')
    before = set(tmp_path.iterdir())
    assert main(["index", *arguments, "--model", str(release_folder)]) == 2
    error = capsys.readouterr().err.strip()
    assert word in error
    assert "\n" not in error
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", DATABASES)
def test_commands_take_databases(release_folder, tmp_path, capsys, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts.jsonl").write_text('{"id": "t0", "text": "a harbour"}\n{"id": "t1", "text": "red bread"}')
    common = ["--model", str(release_folder), "--index", database(name, tmp_path)]
    asked = ["index", "search", "bread", *common, "--json"]
    assert main(asked) == 2
    assert "index build SOURCE --index" in capsys.readouterr().err
    for counts in ("2 added", "2 unchanged"):
        assert main(["index", "build", "texts.jsonl", *common]) == 0
        assert counts in capsys.readouterr().out
    assert main(asked) == 0
    assert {hit["id"] for hit in json.loads(capsys.readouterr().out)["text"]} == {"t0", "t1"}
    assert main([*asked, "--collection", "other"]) == 2
    assert "--collection other" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", io.StringIO("bread\n"))
    assert main(["chat", *common]) == 0
    assert "red bread" in capsys.readouterr().out


def test_conditions():
    words = ["licence=cc0", "year>=2020", "year<2024", "free=true", "name=a=b"]
    assert read_conditions(words) == {
        "licence": "cc0", "year": {"gte": 2020, "lt": 2024}, "free": True, "name": "a=b",
    }  # fmt: skip
    with pytest.raises(CommandError, match="--where cc0"):
        read_conditions(["cc0"])


@pytest.mark.parametrize("precision", ["float32", "int8", "binary"])
def test_small_vectors(release_folder, tmp_path, capsys, precision):
    corpus, index = image_folder(tmp_path / "corpus", 4), tmp_path / "index"
    common = ["--model", str(release_folder), "--index", str(index)]
    small = ["--workers", "0", "--precision", precision, "--truncate-dim", "4"]
    assert main(["index", "build", str(corpus), *common, "--kind", "memory", *small]) == 0
    (about,) = (json.loads(path.read_text(encoding="utf-8")) for path in index.glob("v*/index.json"))
    assert (about["width"], about.get("precision", "float32")) == (4, precision)
    capsys.readouterr()
    # Queries are cut as the index is, which no flag has to say.
    assert main(["index", "search", "hello", *common, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["image"]) == 4
    assert main(["index", "update", str(corpus), *common, "--workers", "0"]) == 0
    assert main(["index", "build", str(corpus), *common, "--truncate-dim", "5", "--workers", "0"]) == 2
    assert "of 4 numbers, not of 5" in capsys.readouterr().err
