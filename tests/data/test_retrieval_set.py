"""Retrieval sets: tables, files, errors."""

import pytest
from datasets import Dataset

from modeling_unimur.data.retrieval_set import RetrievalSet

CORPUS = [
    {"doc_id": "t", "kind": "text", "text": "words", "image": "", "section": "one"},
    {"doc_id": "i", "kind": "image", "text": "a caption", "image": "sub/p.png", "section": "two"},
]
QUERIES = {
    "train": [{"query_id": "q", "text": "what", "excluded": ["t"]}, {"query_id": "r", "text": "x", "excluded": []}]
}
QRELS = {"train": [{"query_id": "q", "doc_id": "i", "score": 2}, {"query_id": "q", "doc_id": "t", "score": 0}]}


@pytest.fixture
def made():
    return RetrievalSet.from_rows(QUERIES, CORPUS, QRELS, {"train": [{"query_id": "q", "image": [], "text": ["t"]}]})


def test_what_is_relevant_and_what_does_not_count(made):
    assert made.relevant("train") == {"q": {"i": 2}}
    assert made.excluded("train") == {"q": ["t"]}


def test_saved_and_loaded(made, tmp_path):
    made.pairs = {"train": Dataset.from_list([{"query_id": "p", "text": "a", "positive": "b", "doc_id": "t"}])}
    made.save(tmp_path)
    again = RetrievalSet.load(tmp_path)
    assert again.corpus["image"][:] == ["", str(tmp_path / "sub/p.png")]
    assert again.relevant("train") == made.relevant("train")
    assert again.queries["train"].to_list() == made.queries["train"].to_list()
    assert again.hard_negatives["train"].to_list() == made.hard_negatives["train"].to_list()
    assert again.pairs["train"].to_list() == made.pairs["train"].to_list()


def test_a_column_becomes_the_group(made):
    tables = {"queries": made.queries, "qrels": made.qrels, "corpus": {"corpus": made.corpus}}
    assert RetrievalSet.from_tables(tables, group="section").corpus["group"][:] == ["one", "two"]


def test_bad_tables_are_told(made, tmp_path):
    with pytest.raises(ValueError, match=r"\['image'\]"):
        RetrievalSet(made.queries, made.corpus.remove_columns("image"), made.qrels)
    with pytest.raises(ValueError, match=r"\['train'\]"):
        RetrievalSet(made.queries, made.corpus, {})
    with pytest.raises(FileNotFoundError, match="no corpus"):
        RetrievalSet.load(tmp_path)


def test_union_keeps_sets_apart_in_one_corpus(made):
    other = RetrievalSet.from_rows(
        {**QUERIES, "test": [{"query_id": "q", "text": "where", "excluded": []}]},
        [{**row, "group": "g"} for row in CORPUS],
        {**QRELS, "test": [{"query_id": "q", "doc_id": "t", "score": 1}]},
    )
    made.corpus = made.corpus.add_column("group", ["one", ""])
    both = RetrievalSet.union({"a": made, "b": other})
    assert both.corpus["doc_id"][:] == ["a/t", "a/i", "b/t", "b/i"]
    assert both.corpus["group"][:] == ["a/one", "", "b/g", "b/g"]
    assert both.corpus["text"][:] == ["words", "a caption"] * 2
    assert both.corpus["image"][:] == ["", "sub/p.png"] * 2
    assert both.relevant("train") == {"a/q": {"a/i": 2}, "b/q": {"b/i": 2}}
    assert both.excluded("train") == {"a/q": ["a/t"], "b/q": ["b/t"]}
    assert both.relevant("test") == {"b/q": {"b/t": 1}}
    assert both.hard_negatives["train"].to_list() == [{"query_id": "a/q", "image": [], "text": ["a/t"]}]
    # A column that one of them lacks is no column of the union.
    assert "section" in both.corpus.column_names
    made.corpus = made.corpus.remove_columns("section")
    assert "section" not in RetrievalSet.union({"a": other, "b": made}).corpus.column_names
    with pytest.raises(ValueError, match="at least one"):
        RetrievalSet.union({})
