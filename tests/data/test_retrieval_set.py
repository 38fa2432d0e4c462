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
