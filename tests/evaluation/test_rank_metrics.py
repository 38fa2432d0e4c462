"""The measures equal trec_eval's, and an MRR written out here; what they say of ties, gaps and no relevance."""

import math

import numpy as np
import pytest
import pytrec_eval

from modeling_unimur.evaluation.rank_metrics import (
    MEASURES,
    all_measures,
    hit_at_k,
    judge,
    mrr_at_k,
    ndcg_at_k,
    rank,
    recall_at_k,
)

CASES = 1000


@pytest.fixture(scope="module")
def cases():
    """Rankings of different lengths, and relevance with grades 0 to 3; every query has something relevant."""
    rng = np.random.default_rng(0)
    documents, depth = 300, 120
    rankings = np.full((CASES, depth), -1)
    relevance = []
    for number in range(CASES):
        length = int(rng.integers(1, depth + 1))
        rankings[number, :length] = rng.permutation(documents)[:length]
        judged = rng.permutation(documents)[: rng.integers(2, 40)]
        drawn = rng.integers(0, 4, len(judged))
        grades = {int(document): int(grade) for document, grade in zip(judged, drawn, strict=True)}
        grades[int(judged[0])] = 2
        relevance.append(grades)
    return rankings, relevance


def _trec(rankings, relevance):
    """What trec_eval says of every case."""
    run = {
        str(number): {str(document): float(-place) for place, document in enumerate(row) if document >= 0}
        for number, row in enumerate(rankings)
    }
    qrels = {
        str(number): {str(doc): grade for doc, grade in grades.items()} for number, grades in enumerate(relevance)
    }
    wanted = {"ndcg_cut.10,20", "recall.20,100", "success.1,10", "recip_rank"}
    found = pytrec_eval.RelevanceEvaluator(qrels, wanted).evaluate(run)
    return [found[str(number)] for number in range(len(rankings))]


def test_equal_to_trec_eval(cases):
    judged, trec = judge(*cases), _trec(*cases)
    for name, ours in {
        "ndcg_cut_10": ndcg_at_k(judged, 10),
        "ndcg_cut_20": ndcg_at_k(judged, 20),
        "recall_20": recall_at_k(judged, 20),
        "recall_100": recall_at_k(judged, 100),
        "success_1": hit_at_k(judged, 1),
        "success_10": hit_at_k(judged, 10),
        "recip_rank": mrr_at_k(judged, 120),
    }.items():
        np.testing.assert_allclose(ours, [row[name] for row in trec], rtol=1e-12, atol=1e-12, err_msg=name)
        assert 0 < ours.mean() < 1


@pytest.mark.parametrize("k", [10, 20])
def test_equal_to_an_mrr_written_out(cases, k):
    rankings, relevance = cases
    expected = []
    for row, grades in zip(rankings, relevance, strict=True):
        value = 0.0
        for place in range(k):
            if row[place] >= 0 and grades.get(int(row[place]), 0) > 0:
                value = 1 / (place + 1)
                break
        expected.append(value)
    np.testing.assert_allclose(mrr_at_k(judge(rankings, relevance), k), expected, rtol=1e-15)


def test_worked_example():
    judged = judge(np.array([[7, 3, 9, 1]]), [{3: 2, 1: 1, 5: 1, 7: 0}])
    assert mrr_at_k(judged, 10) == [0.5]
    assert mrr_at_k(judged, 1) == [0.0]
    gain, best = 2 / math.log2(3) + 1 / math.log2(5), 2 + 1 / math.log2(3) + 1 / math.log2(4)
    assert ndcg_at_k(judged, 10) == pytest.approx([gain / best])
    assert ndcg_at_k(judged, 2) == pytest.approx([(2 / math.log2(3)) / (2 + 1 / math.log2(3))])
    assert recall_at_k(judged, 10) == pytest.approx([2 / 3])
    # One of three is found, and yet it is a hit.
    assert recall_at_k(judged, 2) == pytest.approx([1 / 3])
    assert hit_at_k(judged, 2) == [1.0]
    figures = all_measures(judged)
    assert set(figures) == set(MEASURES)
    assert figures["mrr@10"] == [50.0]


def test_nothing_relevant_and_nothing_returned_count_zero():
    judged = judge(np.array([[0, 1], [-1, -1], [1, -1]]), [{}, {0: 1}, {1: 1}])
    for measure in (mrr_at_k, ndcg_at_k, recall_at_k, hit_at_k):
        np.testing.assert_array_equal(measure(judged, 10), [0.0, 0.0, 1.0])
    empty = judge(np.empty((2, 0), int), [{0: 1}, {}])
    for measure in (mrr_at_k, ndcg_at_k, recall_at_k, hit_at_k):
        np.testing.assert_array_equal(measure(empty, 10), [0.0, 0.0])


def test_ties_keep_the_order_of_the_documents():
    scores = np.array([[1.0, 3.0, 3.0, 0.0, 3.0], [0.0, 0.0, 0.0, 0.0, 0.0]])
    np.testing.assert_array_equal(rank(scores, 3), [[1, 2, 4], [0, 1, 2]])
    np.testing.assert_array_equal(rank(scores, 2), [[1, 2], [0, 1]])
    np.testing.assert_array_equal(rank(scores, 9), [[1, 2, 4, 0, 3], [0, 1, 2, 3, 4]])


def test_documents_without_a_score_are_not_returned():
    scores = np.array([[-np.inf, 0.5, np.nan, 0.7]])
    np.testing.assert_array_equal(rank(scores, 4), [[3, 1, -1, -1]])


def test_rank_equals_a_full_sort():
    rng = np.random.default_rng(1)
    scores = rng.integers(0, 30, (50, 200)).astype(np.float32)
    expected = np.argsort(-scores, axis=1, kind="stable")
    for depth in (1, 10, 199, 200):
        np.testing.assert_array_equal(rank(scores, depth), expected[:, :depth])


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (lambda: judge(np.array([[1, 1]]), [{}]), "twice"),
        (lambda: judge(np.array([[1]]), [{}, {}]), "2 queries"),
        (lambda: rank(np.zeros(3), 2), "shape"),
        (lambda: rank(np.zeros((1, 3)), 0), "at least 1"),
        (lambda: mrr_at_k(judge(np.array([[1]]), [{}]), 0), "cut-off of 0"),
    ],
)
def test_wrong_input(work, message):
    with pytest.raises(ValueError, match=message):
        work()
