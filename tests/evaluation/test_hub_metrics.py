"""The measures as modules of the library `evaluate`, loaded from their folders."""

from importlib.resources import files

import numpy as np
import pytest

evaluate = pytest.importorskip("evaluate", reason="the library evaluate is not installed")


def load(name, tmp_path):
    folder = files("modeling_unimur.evaluation").joinpath("hub_metrics", name)
    return evaluate.load(str(folder), cache_dir=str(tmp_path))


def test_option_ranking(tmp_path):
    measure = load("option_ranking", tmp_path)
    scores = [[0.1, 0.9, 0.5], [3.0, 2.0, 1.0]]
    found = measure.compute(predictions=scores, references=[1, 2], relevance=[[0, 1, 0.5], None])
    assert found["ndcg"] == pytest.approx(100)
    assert found["mrr"] == pytest.approx(100 * (1 + 1 / 3) / 2)
    assert found["r1"] == 50
    assert measure.compute(predictions=scores, references=[1, 2])["ndcg"] is None


def test_reply_kinds(tmp_path):
    found = load("reply_kinds", tmp_path).compute(
        predictions=[["text", "image"], ["text", "image"], ["text"]],
        references=[["text", "image"], ["text"], ["text", "image"]],
    )
    assert found["image_retrieval_rate"] == 50
    assert found["over_return_rate"] == 100
    assert found["intent_f1"] == pytest.approx(100 * (1 + 2 / 3 + 2 / 3) / 3)


def test_pool_recall(tmp_path):
    scores = [[1.0, 5.0, 3.0], [2.0, 2.0], [float("nan"), 1.0]]
    found = load("pool_recall", tmp_path).compute(predictions=scores, references=[2, 0, 0])
    assert found == pytest.approx({"r1": 0, "r5": 200 / 3, "r10": 200 / 3, "mrr": 100 * (0.5 + 0.5) / 3})
    assert np.isfinite(list(found.values())).all()
