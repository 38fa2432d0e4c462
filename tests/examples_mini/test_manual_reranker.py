"""The GIMP manual's cross-encoder: its rows, and a run on a tiny encoder."""

import pytest
import torch
from transformers import BertConfig, BertModel

from modeling_unimur.data.retrieval_set import RetrievalSet
from modeling_unimur.index.second_stage import Candidate, open_reranker
from modeling_unimur.memory_index import Hit
from tests import tiny
from unimur_mini.manuals.reranker import (
    Question,
    generated_questions,
    late_interaction,
    main,
    train,
    training_questions,
    training_rows,
)


@pytest.fixture
def manual():
    corpus = [
        {"doc_id": f"d{n}", "kind": "text", "text": f"passage {n}", "image": "", "group": group, "section": group}
        for n, group in enumerate(["Tools > Crop", "Tools > Crop", "Tools > Move", "Filters > Blur", "Filters > Blur"])
    ]
    queries = [
        {"query_id": "q", "text": "how to crop", "excluded": ["d3"]},
        {"query_id": "r", "text": "?", "excluded": []},
    ]
    qrels = [{"query_id": "q", "doc_id": "d0", "score": 2}, {"query_id": "q", "doc_id": "d2", "score": 1}]
    found = RetrievalSet.from_rows({"train": queries}, corpus, {"train": [*qrels, {**qrels[1], "query_id": "r"}]})
    pairs = [
        {"query_id": f"lead-d{n}", "text": f"first {n}", "positive": f"rest {n}", "doc_id": f"d{n}"} for n in (1, 2, 4)
    ]
    from datasets import Dataset

    return RetrievalSet(found.queries, found.corpus, found.qrels, pairs={"train": Dataset.from_list(pairs)})


def test_questions_know_what_is_no_negative(manual):
    assert training_questions(manual) == [Question("how to crop", ["passage 0"], {"d0", "d1", "d2", "d3"})]


def test_generated_questions_are_first_sentences_and_titles(manual):
    found = generated_questions(manual, 10, seed=0)
    assert Question("first 1", ["rest 1"], {"d1"}) in found
    assert Question("Crop, Tools", ["passage 1"], {"d1"}) in found
    assert len(found) == 6
    assert generated_questions(manual, 2, seed=0) == generated_questions(manual, 2, seed=0)
    assert len(generated_questions(manual, 2, seed=0)) == 4


def test_rows_are_an_answer_and_wrong_hits():
    hits = [Hit(f"d{n}", 0.5, "text", {"text": f"passage {n}"}) for n in range(4)]
    hits += [Hit("bare", 0.5, "image", {}), Hit("seen", 0.5, "image", {"caption": "a dialog"})]
    rows = list(training_rows([Question("q", ["answer"], {"d0", "d3"})], [hits], negatives=9))
    assert rows[0] == {"query": "q", "document": "answer", "label": 1.0}
    assert {row["document"] for row in rows[1:]} == {"passage 1", "passage 2", "a dialog"}
    assert {row["label"] for row in rows[1:]} == {0.0}
    assert len(list(training_rows([Question("q", ["answer"], set())], [hits], negatives=2))) == 3


def test_a_run_is_reproducible_and_opens_as_a_second_stage(tmp_path):
    config = BertConfig(
        vocab_size=400, hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4,
        max_position_embeddings=128, pad_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    BertModel(config).save_pretrained(tmp_path / "start")
    tiny.tokenizer().save_pretrained(tmp_path / "start")
    rows = list(
        training_rows([Question("cat", ["a cat"], set())] * 4, [[Hit("d", 0.5, "text", {"text": "a truck"})]] * 4)
    )
    weights = []
    for name in ("one", "two"):
        train(str(tmp_path / "start"), rows, str(tmp_path / name), epochs=3)
        weights.append(open_reranker(tmp_path / name).model.model.state_dict())
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    before = BertModel.from_pretrained(tmp_path / "start").state_dict()
    moved = [name for name, value in before.items() if not torch.equal(value, weights[0][f"bert.{name}"])]
    assert moved
    assert not any(name.startswith(("embeddings", "encoder.layer.0")) for name in moved)


def test_late_interaction_needs_no_training(tmp_path):
    tiny.sentence_encoder(tmp_path / "start")
    late_interaction(str(tmp_path / "start"), str(tmp_path / "late"))
    found = open_reranker(tmp_path / "late").scores([("a cat", Candidate("a cat")), ("a cat", Candidate("a truck"))])
    assert found[0] > found[1]


def test_training_needs_an_index(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("unimur_mini.packages.pip_package", lambda requirement: tiny.sentence_encoder(tmp_path))
    with pytest.raises(SystemExit):
        main(["--output", str(tmp_path / "model")])
    assert "--index" in capsys.readouterr().err
