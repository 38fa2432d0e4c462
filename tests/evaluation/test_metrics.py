"""Ranks and recalls on small cases, and every measure against trec_eval, scikit-learn or its definition."""

import math

import numpy as np
import pytest
import pytrec_eval
from sklearn.metrics import roc_auc_score

from benchmarks.ablation import image_retrieval_rate
from modeling_unimur.evaluation.metrics import (
    MEASURES,
    aligned_recall,
    all_measures,
    area_under_curve,
    consistency_values,
    first_right_ranks,
    hit_at_k,
    intent_f1,
    judge,
    mm_relevance,
    mrr_at_k,
    ndcg_at_k,
    rank,
    recall_at,
    recall_at_k,
    right_ranks,
    threshold_for,
)

CASES = 1000


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


@pytest.mark.parametrize(
    ("scores", "right", "rank"),
    [
        ([3, 2, 1], [0, 1, 1], 2),  # the best placed right one counts
        ([1, 1, 1], [1, 0, 1], 2),  # a tie with a wrong one counts against it, with a right one not
        ([1, np.nan, 0], [1, 0, 0], 1),
        ([np.nan, 1, 0], [1, 0, 1], 2),  # the right one that is returned
        ([np.nan, np.nan], [1, 0], 0),
        ([-np.inf, 1], [1, 0], 0),
        ([1, 2], [0, 0], 0),
    ],
)
def test_right_ranks(scores, right, rank):
    assert right_ranks(np.array([scores], dtype=np.float32), np.array([right])).tolist() == [rank]


def test_consistency_looks_at_the_first_of_each_kind():
    texts, images = np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([[0.1, 0.7], [0.3, 0.6]])
    own = np.eye(2, dtype=bool)
    assert consistency_values(texts, images, own, own).tolist() == [0.0, 100.0]
    assert consistency_values(texts, images, own, own[::-1]).tolist() == [100.0, 0.0]  # right for another query


def test_image_rate_does_not_see_a_gap_between_the_kinds():
    rng = np.random.default_rng(0)
    texts, images = rng.normal(size=(40, 30)), rng.normal(size=(40, 30))
    rate = image_retrieval_rate(texts, images)
    assert image_retrieval_rate(texts + 5, images * 0.1) == rate
    assert 20 < rate < 80
    images[:, 0] += 20
    assert image_retrieval_rate(texts, images) == 100.0


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
    ],
)
def test_wrong_input(work, message):
    with pytest.raises(ValueError, match=message):
        work()


# -- sequences --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("returned", "gold", "wanted"),
    [
        (["text"], ["text"], 1),
        (["text", "image"], ["text"], 2 / 3),
        (["image", "text"], ["text", "image"], 0),  # aligned from the left
        ([], ["text"], 0),
        (["text"], ["text", "image", "image"], 0.5),
    ],
)
def test_intent_f1(returned, gold, wanted):
    assert intent_f1(returned, gold) == pytest.approx(wanted)


def test_intent_f1_is_the_harmonic_mean():
    rng = np.random.default_rng(0)
    for _ in range(CASES):
        returned, gold = (list(rng.choice(["text", "image"], rng.integers(1, 5))) for _ in range(2))
        hits = sum(a == b for a, b in zip(returned, gold, strict=False))
        precision, recall = hits / len(returned), hits / len(gold)
        wanted = 2 * precision * recall / (precision + recall) if hits else 0
        assert intent_f1(returned, gold) == pytest.approx(wanted)


def test_mm_relevance_is_the_harmonic_mean():
    rng = np.random.default_rng(1)
    for _ in range(CASES):
        returned, gold = (rng.normal(size=(rng.integers(0, 4), 3)) for _ in range(2))
        returned, gold = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (returned, gold))
        total = sum(float(a @ b) for a, b in zip(returned, gold, strict=False))
        if len(returned) and len(gold) and total > 0:
            precision, recall = total / len(returned), total / len(gold)
            assert mm_relevance(returned, gold) == pytest.approx(2 * precision * recall / (precision + recall))
        else:
            assert mm_relevance(returned, gold) == 0


def test_aligned_recall_counts_what_was_not_returned():
    assert aligned_recall([1, 1], 2, 1) == 1
    assert aligned_recall([1, 1], 1, 1) == 0.5  # the second gold picture has no counterpart
    assert aligned_recall([1, 1], 0, 1) == 0
    assert aligned_recall([0, 3], 2, 5) == 0.5  # rank 0: nothing right can be found
    assert aligned_recall([7], 1, 5) == 0


# -- whether a picture is returned ------------------------------------------------------------------------------------
def test_area_under_curve_equals_sklearn():
    rng = np.random.default_rng(2)
    for _ in range(CASES):
        count = int(rng.integers(2, 12))
        scores, wanted = rng.integers(0, 4, count), rng.integers(0, 2, count).astype(bool)  # many equal scores
        found = area_under_curve(scores, wanted)
        if wanted.all() or not wanted.any():
            assert np.isnan(found)
        else:
            assert found == pytest.approx(roc_auc_score(wanted, scores))


def test_threshold_is_the_least_that_is_allowed():
    rng = np.random.default_rng(3)
    for _ in range(CASES):
        count = int(rng.integers(2, 12))
        scores, wanted = rng.integers(0, 5, count).astype(float), rng.integers(0, 2, count).astype(bool)
        wanted[0] = False
        share = float(rng.choice([0, 0.1, 0.25, 0.5, 1]))
        threshold = threshold_for(scores, wanted, share)
        assert (scores[~wanted] >= threshold).mean() <= share
        # Any lower threshold that decides otherwise would return too many.
        lower = scores[~wanted][scores[~wanted] < threshold]
        if len(lower):
            assert (scores[~wanted] >= lower.max()).mean() > share


def test_threshold_errors():
    with pytest.raises(ValueError, match="Every reply"):
        threshold_for(np.zeros(2), np.array([True, True]), 0.1)
