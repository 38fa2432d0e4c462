"""Metrics on small cases worked out by hand."""

import numpy as np
import pytest

from modeling_unimur.evaluation.retrieval_metrics import (
    cross_modal_consistency,
    first_right_ranks,
    image_retrieval_rate,
    recall_at,
)


def test_ranks_and_recall():
    scores = np.array([[0.9, 0.5, 0.1], [0.2, 0.3, 0.4], [0.1, 0.1, 0.1]])
    ranks = first_right_ranks(scores, np.array(["a", "a", "c"]), np.array(["a", "b", "c"]))
    assert ranks.tolist() == [1, 3, 3]  # a tie counts against the right answer
    assert recall_at(ranks, (1, 3)) == pytest.approx({"r1": 100 / 3, "r3": 100.0})


def test_a_query_without_a_right_answer_is_missed():
    ranks = first_right_ranks(np.ones((1, 2)), np.array([7]), np.array([1, 2]))
    assert ranks.tolist() == [0]
    assert recall_at(ranks)["r10"] == 0.0
    with pytest.raises(ValueError, match="no queries"):
        recall_at(np.array([]))


def test_consistency_looks_at_the_first_of_each_kind():
    texts, images = np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([[0.1, 0.7], [0.3, 0.6]])
    assert cross_modal_consistency(texts, images, np.array([0, 1]), np.array([0, 1])) == 50.0


def test_image_rate_does_not_see_a_gap_between_the_kinds():
    rng = np.random.default_rng(0)
    texts, images = rng.normal(size=(40, 30)), rng.normal(size=(40, 30))
    rate = image_retrieval_rate(texts, images)
    assert image_retrieval_rate(texts + 5, images * 0.1) == rate
    assert 20 < rate < 80
    images[:, 0] += 20
    assert image_retrieval_rate(texts, images) == 100.0
