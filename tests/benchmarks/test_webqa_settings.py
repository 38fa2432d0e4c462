"""The benchmark of WebQA's settings: the generated set, and what merging does to it."""

import json

import pytest

from benchmarks import webqa_settings
from benchmarks.webqa_settings import measure, write_released
from modeling_unimur.data.retrieval_set import RetrievalSet


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two questions with one text, a third with another, a fourth with a figure whose caption says nothing."""
    monkeypatch.setenv("UNIMUR_CACHE", str(tmp_path / "cache"))
    corpus = [
        {"doc_id": "t0", "kind": "text", "text": "red balloons rise", "image": "", "section": "Balloons"},
        {"doc_id": "t1", "kind": "text", "text": "a quiet harbour", "image": "", "section": "Harbours"},
        {"doc_id": "i0", "kind": "image", "text": "Example", "image": "", "section": "Guide > Violins"},
    ]
    questions = [("a", "balloons", "t0"), ("b", "red", "t0"), ("c", "harbour", "t1"), ("d", "violins", "i0")]
    queries = [{"query_id": name, "text": text, "kind": ""} for name, text, _ in questions]
    qrels = [{"query_id": name, "doc_id": doc, "score": 2} for name, _, doc in questions]
    splits = ("validation", "test")
    made = RetrievalSet.from_rows(dict.fromkeys(splits, queries), corpus, dict.fromkeys(splits, qrels))
    (tmp_path / "webqa").mkdir()
    assert write_released(made, tmp_path / "webqa") == 2
    return tmp_path / "webqa"


def test_each_question_has_its_own_copies(folder):
    lines = [json.loads(line) for line in (folder / "all_docs.json").read_text().splitlines()]
    assert len(lines) == len({line["snippet_id"] for line in lines}) == 6
    assert len({line["fact"] for line in lines}) == 2


def test_settings_differ_by_copies_and_captions(folder):
    found = measure(folder, [])
    assert (found["merged_documents"], found["released_documents"]) == (2 + 1, 6 + 1)
    assert found["merged_bm25_text"] == 100 > found["released_bm25_text"]  # a copy of another question stands before
    assert found["merged_bm25_image"] == 0 < found["released_bm25_image"]  # the query behind the caption


def test_quick_run(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("UNIMUR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("sys.argv", ["webqa_settings.py", "--quick"])
    webqa_settings.main()
    assert '"released_bm25_both"' in capsys.readouterr().out
