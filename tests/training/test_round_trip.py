"""Generated queries that do not find their own document again are not trained on."""

import pytest
import torch

from modeling_unimur.data.retrieval_set import RetrievalSet
from modeling_unimur.evaluation.universal import RetrievalTask
from modeling_unimur.training.recipes import load_recipe
from modeling_unimur.training.round_trip import failed_round_trips
from modeling_unimur.training.train_univl_dr import _Run, train
from tests.training.univl_dr_set import write_recipe, write_set

WORDS = ("crop", "blur", "layer", "brush")


@pytest.fixture
def task():
    """Each word asks for the document of its number; "crop" excludes the one of "blur"."""
    corpus = [{"doc_id": f"d{n}", "kind": "text", "text": f"about {w}", "image": ""} for n, w in enumerate(WORDS)]
    queries = [{"query_id": w, "text": w, "excluded": ["d1"] if w == "crop" else []} for w in WORDS]
    qrels = [{"query_id": w, "doc_id": f"d{n}", "score": 1} for n, w in enumerate(WORDS)]
    return RetrievalTask.from_set(
        RetrievalSet.from_rows({"generated": queries}, corpus, {"generated": qrels}), "generated"
    )


def test_a_query_fails_that_does_not_find_its_document(task):
    documents = torch.eye(4)
    queries = torch.tensor([[0.5, 0.9, 0, 0], [0, 1, 0, 0], [0.1, 0.3, 0.2, 0], [0.9, 0.8, 0.7, 0.6]])
    found = {depth: failed_round_trips(task, queries, documents, depth) for depth in (1, 2, 3, 4)}
    # The document of "blur" is the nearest to "crop", and does not count for it.
    assert found == {1: {"layer", "brush"}, 2: {"brush"}, 3: {"brush"}, 4: set()}


def test_words_count_beside_vectors(task):
    wrong = torch.eye(4).roll(1, dims=0)
    assert failed_round_trips(task, wrong, torch.eye(4), 1) == set(WORDS) - {"crop"} | {"crop"}
    assert failed_round_trips(task, wrong, torch.eye(4), 1, bm25_weight=0.9) == set()


def test_a_run_trains_on_what_passes(clip_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("UNIMUR_CACHE", str(tmp_path / "cache"))
    folder = write_set(tmp_path / "set")
    for table in ("queries", "qrels"):
        (folder / f"{table}-validation.parquet").rename(folder / f"{table}-generated.parquet")
    options = {"max_steps": 1, "eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}

    def rows(depth):
        data = {"generated_splits": ["generated", "absent"], "round_trip": depth, "dev_split": "test", "stages": [1]}
        return _Run(load_recipe(write_recipe(tmp_path / "run.json", folder, clip_folder, data=data, **options))).rows(
            1
        )

    everything, some = rows(48), rows(3)
    assert len(everything) == 32 + 8
    assert 32 <= len(some) < 40
    assert {"text-query-red-guitar", "image-query-red-guitar"} & set(everything.queries)
    train(load_recipe(tmp_path / "run.json"))
