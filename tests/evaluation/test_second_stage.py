"""A second stage as a row of the evaluation."""

import math
from collections import Counter

import numpy as np
import pytest
from sentence_transformers import CrossEncoder

from modeling_unimur.evaluation.evaluator import Encoded
from modeling_unimur.evaluation.universal import SecondStage, universal_result
from modeling_unimur.evaluation.universal.task import RetrievalTask
from modeling_unimur.index.second_stage import Reranker
from tests import tiny
from tests.evaluation.universal_sets import TopicEncoder, retrieval_set

TEXTS = ["one", "two", "three", "", "five"]


IS_IMAGE = np.array([False, False, True, False, False])
FIRST = Encoded(
    None, np.eye(2), {"both": np.array([[5, -1], [4, -2], [3, -3], [2, -9], [1, -5.0]])}, is_image=IS_IMAGE
)


class Lengths:
    """Scores by the number of letters."""

    def __init__(self):
        self.skipped = Counter()

    def scores(self, pairs):
        return np.array([float(len(candidate.words)) if candidate.words else np.nan for _, candidate in pairs])


@pytest.fixture
def task():
    return RetrievalTask(
        query_ids=["a", "b"], query_texts=["?", "?"], query_kinds=["", ""], doc_ids=list("vwxyz"), doc_texts=TEXTS,
        doc_images=[""] * 5, is_image=IS_IMAGE, relevance=[{0: 1}, {1: 1}],
        excluded=[np.array([1]), np.array([], int)], doc_groups=[""] * 5,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("top_k", "expected"),
    [
        (50, [[2, 4, 0, 3], [2, 4, 0, 1, 3]]),  # the fourth has no words and stays behind
        (2, [[2, 0, 3, 4], [0, 1, 2, 4, 3]]),
        (3, [[2, 0, 3, 4], [2, 0, 1, 4, 3]]),
    ],
)
def test_the_best_are_in_the_order_of_the_scores(task, top_k, expected):
    scores = SecondStage(FIRST, Lengths(), task, top_k).scores("both", np.array([0, 1]))
    for row, wanted in zip(scores, expected, strict=True):
        assert [n for n in np.argsort(-row, kind="stable").tolist() if np.isfinite(row[n])] == wanted


@pytest.mark.parametrize(
    ("weight", "expected"),
    [
        (0.0, [[0, 2, 4, 3], [0, 1, 2, 4, 3]]),  # the first stage's order; the fourth has no words
        (1.0, [[2, 0, 4, 3], [2, 0, 4, 1, 3]]),
        (math.inf, [[2, 4, 0, 3], [2, 4, 0, 1, 3]]),
    ],
)
def test_both_stages_count_by_a_weight(task, weight, expected):
    # Scaled: the first stage gives 1, 1/2, 1/4 and 0 to the first query; 3, 5, no and 4 letters give 0, 1, none, 1/2.
    system = SecondStage(FIRST, Lengths(), task)
    rows = np.array([0, 1])
    system.scores("both", rows)
    system.reranker = None  # it has read them
    for row, wanted in zip(system.weighted(weight).scores("both", rows), expected, strict=True):
        assert [n for n in np.argsort(-row, kind="stable").tolist() if np.isfinite(row[n])] == wanted


def test_only_the_wanted_kind_is_rescored(task):
    system = SecondStage(FIRST, Lengths(), task)
    (scores,) = system.scores("text", np.array([1]))
    assert np.argsort(-scores, kind="stable")[:3].tolist() == [4, 0, 1]
    assert np.isneginf(scores[2])
    np.testing.assert_array_equal(system.scores("text", np.array([1]), np.array([4, 2])), [scores[[4, 2]]])


def test_the_evaluation_has_one_more_row(tmp_path):
    reranker = Reranker(CrossEncoder(str(tiny.cross_encoder(tmp_path / "model")), device="cpu"))
    task = RetrievalTask.from_set(retrieval_set(), "test")
    found = universal_result(task, {"topics": TopicEncoder()}, {}, reranker=reranker)
    assert list(found.systems)[-1] == "topics + second stage"
    assert found.data["not rescored"] == dict(reranker.skipped)
