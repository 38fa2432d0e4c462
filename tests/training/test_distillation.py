"""Losses of distillation are those of sentence-transformers, and every kind of teacher gives scores of a batch."""

import json
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from modeling_unimur import UniVLDRModel
from modeling_unimur.data.json_lines import write_json_lines
from modeling_unimur.data.retrieval_set import RetrievalSet
from modeling_unimur.evaluation.universal import bm25_system, dense_system
from modeling_unimur.index.second_stage import open_reranker
from modeling_unimur.training.distillation import (
    Distillation,
    FileTeacher,
    PairTeacher,
    SystemTeacher,
    kl_loss,
    margin_mse_loss,
    read_scores,
)
from modeling_unimur.training.documents import Documents
from modeling_unimur.training.recipes import load_recipe
from modeling_unimur.training.train_univl_dr import train
from tests import tiny
from tests.training.univl_dr_set import write_recipe, write_set

pytestmark = pytest.mark.usefixtures("cache")

QUERIES, WAYS, WIDTH = 5, 4, 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("set") / "set")


@pytest.fixture
def batch():
    """Vectors of queries and of `WAYS` documents each, the first right; and a teacher's scores of those alone."""
    torch.manual_seed(0)
    queries = F.normalize(torch.randn(QUERIES, WIDTH), dim=1).requires_grad_()
    documents = F.normalize(torch.randn(QUERIES * WAYS, WIDTH), dim=1).requires_grad_()
    labels = torch.randn(QUERIES, WAYS)
    teacher = torch.full((QUERIES, QUERIES * WAYS), math.nan)
    for query in range(QUERIES):
        teacher[query, query * WAYS : (query + 1) * WAYS] = labels[query]
    return queries, documents, labels, teacher, torch.arange(QUERIES) * WAYS


def theirs(loss, batch):
    """What sentence-transformers computes, and its gradient at the queries."""
    queries, documents, labels, *_ = batch
    value = loss.compute_loss_from_embeddings([queries, *documents.view(QUERIES, WAYS, WIDTH).unbind(1)], labels)
    return value, torch.autograd.grad(value, queries)[0]


@pytest.mark.parametrize(("ours", "teachers"), [(1.0, None), (0.05, None), (0.05, 0.4)])
def test_kl_is_that_of_sentence_transformers(batch, ours, teachers):
    losses = pytest.importorskip("sentence_transformers.losses")
    expected, gradient = theirs(losses.DistillKLDivLoss(None, temperature=ours, teacher_temperature=teachers), batch)
    queries, documents, _, teacher, positives = batch
    chosen = Distillation("start", temperature=ours, teacher_temperature=teachers)
    found = chosen(queries, documents, teacher, positives, tiny_config())
    torch.testing.assert_close(found * ours**2, expected)
    torch.testing.assert_close(torch.autograd.grad(found * ours**2, queries)[0], gradient)


def test_margin_mse_is_that_of_sentence_transformers(batch):
    losses = pytest.importorskip("sentence_transformers.losses")
    queries, documents, labels, teacher, positives = batch
    margins = (queries, documents, labels[:, :1] - labels[:, 1:])
    expected, gradient = theirs(losses.MarginMSELoss(None), margins)
    found = Distillation("start", loss="margin_mse")(queries, documents, teacher, positives, tiny_config())
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, queries)[0], gradient)


def tiny_config(dims=None):
    return type("Config", (), {"matryoshka_dims": dims, "matryoshka_weights": None})


def test_documents_without_a_score_do_not_count():
    scores, nothing = torch.tensor([[1.0, 2.0, 9.0], [1.0, 0.0, 0.0]]), math.nan
    teacher = torch.tensor([[0.5, 0.1, nothing], [0.3, nothing, nothing]])
    alone = kl_loss(scores[:1, :2], teacher[:1, :2])
    torch.testing.assert_close(kl_loss(scores, teacher), alone)  # nothing to compare for the second query
    positives = torch.tensor([0, 0])
    torch.testing.assert_close(margin_mse_loss(scores, teacher, positives), torch.tensor((-1.0 - 0.4) ** 2))
    blank = torch.full_like(scores, nothing)
    assert kl_loss(scores, blank) == margin_mse_loss(scores, blank, positives) == 0


def test_prefixes_are_distilled_as_well(batch):
    queries, documents, _, teacher, positives = batch
    chosen = Distillation("start")
    whole = chosen(queries, documents, teacher, positives, tiny_config())
    half = chosen(*(F.normalize(v[:, :8], dim=1) for v in (queries, documents)), teacher, positives, tiny_config())
    torch.testing.assert_close(chosen(queries, documents, teacher, positives, tiny_config([16, 8])), whole + half)


# -- teachers ---------------------------------------------------------------------------------------------------------
def test_teachers_score_a_batch(folder, tmp_path):
    documents = Documents(RetrievalSet.load(folder))
    rows = [{"query": "b", "text": "red cat"}, {"query": "a", "text": "a cake"}]
    numbers, chosen = [len(documents) - 1, 2, 0], np.array([[True, True, False], [False, True, True]])
    rng = np.random.default_rng(0)
    vectors, queries = rng.standard_normal((len(documents), 4)), rng.standard_normal((2, 4))
    shown = np.array([kind == "image" for kind in documents.kinds])
    found = SystemTeacher(dense_system(queries, vectors, shown), ["a", "b"])(rows, numbers, chosen)
    np.testing.assert_allclose(found, queries[[1, 0]] @ vectors[numbers].T)

    words = bm25_system(["a cake", "red cat"], documents.texts, shown)
    both = SystemTeacher(dense_system(queries, vectors, shown), ["a", "b"], words, 0.3)(rows, numbers, chosen)
    shared = np.maximum(words.scores("both", np.array([1, 0])), 0)
    assert shared.any(axis=1).all()
    np.testing.assert_allclose(both - found, 0.3 * (shared / shared.max(axis=1, keepdims=True))[:, numbers])

    reranker = open_reranker(tiny.cross_encoder(tmp_path))
    found = PairTeacher(reranker, documents)(rows, numbers, chosen)
    assert (~np.isnan(found) == chosen).all()
    pair = (rows[1]["text"], documents.texts[0])
    np.testing.assert_allclose(found[1, 2], reranker.model.predict([pair])[0], rtol=1e-5)

    write_json_lines(tmp_path / "scores.jsonl", [{"query_id": "a", "doc_id": documents.ids[2], "score": 3}])
    found = FileTeacher(read_scores(tmp_path / "scores.jsonl"), documents)(rows, numbers, chosen)
    assert found[1, 1] == 3
    assert np.isnan(found).sum() == 5


def losses_of(run):
    """Of the first step: the whole loss and the distillation's."""
    last = max((run / "stage1").glob("checkpoint-*"))
    first = json.loads((last / "trainer_state.json").read_text())["log_history"][0]
    return first["loss"], first["distillation_loss"]


@pytest.mark.parametrize("teacher", ["start", "start and bm25", "encoder", "cross-encoder", "file"])
def test_a_run_learns_from_any_teacher(folder, clip_folder, tmp_path, teacher):
    chosen = {"teacher": "start", "weight": 0.5}
    if teacher == "start and bm25":
        chosen["bm25"] = 1.0
    elif teacher == "encoder":
        chosen["teacher"] = str(tiny.sentence_encoder(tmp_path / "encoder"))
    elif teacher == "cross-encoder":
        chosen["teacher"] = str(tiny.cross_encoder(tmp_path / "cross"))
    elif teacher == "file":
        made = RetrievalSet.load(folder)
        right = {(row["query_id"], row["doc_id"]) for row in made.qrels["train"]}
        rows = [
            {"query_id": query, "doc_id": doc, "score": float((query, doc) in right)}
            for query in made.queries["train"]["query_id"]
            for doc in made.corpus["doc_id"]
        ]
        write_json_lines(tmp_path / "scores.jsonl", rows)
        chosen |= {"teacher": str(tmp_path / "scores.jsonl"), "loss": "margin_mse"}
    options = {"max_steps": 3, "eval_strategy": "no", "save_steps": 3, "load_best_model_at_end": False}
    data = {"stages": [1], "final_figures": False, "distillation": chosen}
    train(load_recipe(write_recipe(tmp_path / "with.json", folder, clip_folder, data=data, **options)))
    del data["distillation"]
    train(load_recipe(write_recipe(tmp_path / "without.json", folder, clip_folder, data=data, **options)))
    with_it, without = (UniVLDRModel.from_pretrained(tmp_path / name).state_dict() for name in ("with", "without"))
    assert any(not torch.equal(value, without[name]) for name, value in with_it.items())
    whole, learned = losses_of(tmp_path / "with")
    if teacher == "start":  # the student is the teacher until the first step
        assert learned == pytest.approx(0, abs=1e-5)
    else:
        assert learned > 1e-3
    assert math.isfinite(whole)


@pytest.mark.parametrize(
    ("chosen", "error", "words"),
    [
        ({"teacher": "start", "loss": "l2"}, ValueError, "loss must be"),
        ({"teacher": "start", "temperature": 0}, ValueError, "temperature"),
        ({"teacher": "start", "teacher_temperature": -1.0}, ValueError, "teacher_temperature"),
        ({"teacher": "start", "weight": -1}, ValueError, "weight"),
        ({"teacher": "start", "bm25": -1}, ValueError, "bm25"),
        ({"loss": "kl"}, ValueError, "teacher"),
        ({"teacher": "nowhere.parquet"}, FileNotFoundError, "nowhere"),
    ],
)
def test_bad_choices_are_told(folder, clip_folder, tmp_path, chosen, error, words):
    data = {"stages": [1], "distillation": chosen}
    with pytest.raises(error, match=words):
        train(load_recipe(write_recipe(tmp_path / "run.json", folder, clip_folder, data=data, max_steps=1)))


def test_a_file_without_a_column_is_told(tmp_path):
    write_json_lines(tmp_path / "scores.jsonl", [{"query_id": "a", "doc_id": "b"}])
    with pytest.raises(ValueError, match="score"):
        read_scores(tmp_path / "scores.jsonl")
