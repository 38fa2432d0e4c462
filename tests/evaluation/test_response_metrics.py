"""Measures of replies, pools and intervals against straightforward and independent computations."""

import numpy as np
import pytest
from scipy.stats import bootstrap as scipy_bootstrap
from sklearn.metrics import ndcg_score, roc_auc_score

from modeling_unimur.evaluation.protocols.encoding import Encoded
from modeling_unimur.evaluation.protocols.intervals import paired_interval, weighted_interval
from modeling_unimur.evaluation.protocols.pools import rank_in_pools
from modeling_unimur.evaluation.protocols.ranking import gold_ranks, recall_values
from modeling_unimur.evaluation.protocols.response_metrics import (
    aligned_recall,
    area_under_curve,
    intent_f1,
    mm_relevance,
    threshold_for,
)
from modeling_unimur.evaluation.protocols.visdial import _dialogue_ranks, answer_values

CASES = 1000


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
    with pytest.raises(ValueError, match="0 to 1"):
        threshold_for(np.zeros(2), np.array([True, False]), 10)
    with pytest.raises(ValueError, match="Every reply"):
        threshold_for(np.zeros(2), np.array([True, True]), 0.1)


# -- pools ------------------------------------------------------------------------------------------------------------
def test_ranks_in_pools_against_the_definition():
    rng = np.random.default_rng(4)
    for _ in range(CASES):
        dialogs, candidates = int(rng.integers(1, 4)), int(rng.integers(1, 9))
        pools = [rng.permutation(candidates)[: rng.integers(0, candidates + 1)] for _ in range(dialogs)]
        owners = np.sort(rng.integers(0, dialogs, rng.integers(1, 7)))
        golds = rng.integers(-1, candidates, len(owners))
        table = rng.integers(0, 4, (len(owners), candidates)).astype(float)  # many equal scores
        table[rng.random(table.shape) < 0.15] = np.nan  # cannot be read
        found = rank_in_pools(
            lambda rows, chosen, table=table: table[rows][:, chosen], np.arange(len(owners)), owners, golds, pools
        )
        for row, (owner, gold) in enumerate(zip(owners, golds, strict=True)):
            others = [number for number in pools[owner] if number != gold]
            readable = [number for number in others if not np.isnan(table[row, number])]
            if gold < 0 or np.isnan(table[row, gold]):
                assert found.ranks[row] == 0
            else:
                assert found.ranks[row] == 1 + sum(table[row, number] >= table[row, gold] for number in readable)
                readable.append(gold)
            if readable:
                top = max(table[row, number] for number in readable)
                assert found.best_scores[row] == top
                assert table[row, found.best[row]] == top
                assert found.best[row] in readable
                if found.ranks[row] == 1:
                    assert found.best[row] == gold
            else:
                assert found.best[row] == -1


def test_pools_need_their_order():
    with pytest.raises(ValueError, match="order"):
        rank_in_pools(lambda rows, chosen: np.zeros((len(rows), len(chosen))), [0, 1], [1, 0], [0, 0], [[1], [1]])


# -- answers ----------------------------------------------------------------------------------------------------------
def test_answer_measures_against_sklearn():
    rng = np.random.default_rng(5)
    for _ in range(CASES):
        options = int(rng.integers(2, 8))
        scores = rng.permutation(options).astype(float)
        gold, relevance = int(rng.integers(options)), rng.choice([0, 0, 0.2, 0.4, 1], options)
        values = answer_values([scores], [gold], [relevance])
        rank = 1 + int((scores > scores[gold]).sum())
        assert values["mrr"][0] == pytest.approx(100 / rank)
        for k in (1, 5, 10, 20):
            assert values[f"r{k}"][0] == 100 * (rank <= k)
        relevant = int((relevance > 0).sum())
        if relevant:
            wanted = ndcg_score(relevance[None], scores[None], k=relevant)
            assert values["ndcg"][0] == pytest.approx(100 * wanted)
        else:
            assert np.isnan(values["ndcg"][0])


def test_equal_scores_earn_nothing_and_rounds_without_relevance_have_no_ndcg():
    values = answer_values([np.zeros(100)] * 2, [3, 4], [None, [1.0] + [0.0] * 99])
    assert values["mrr"].tolist() == [1, 1]
    assert values["r20"].tolist() == [0, 0]
    assert np.isnan(values["ndcg"][0])
    assert values["ndcg"][1] == 0


# -- intervals --------------------------------------------------------------------------------------------------------
def test_intervals_draw_whole_dialogues():
    rng = np.random.default_rng(6)
    level = rng.normal(size=40)  # replies of a dialogue are alike
    clusters = np.repeat(np.arange(40), 5)
    values = level[clusters] + 0.1 * rng.normal(size=200)
    found = weighted_interval(values, clusters)
    assert found.mean == pytest.approx(values.mean())
    means = values.reshape(40, 5).mean(axis=1)
    wanted = scipy_bootstrap((means,), np.mean, method="percentile", n_resamples=4000, rng=0).confidence_interval
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=0.03)
    alone = weighted_interval(values, np.arange(200))
    assert found.high - found.low > 1.5 * (alone.high - alone.low)


def test_weights_and_values_that_do_not_apply():
    values, clusters = np.array([100.0, 0.0, np.nan]), np.array(["a", "b", "b"])
    assert weighted_interval(values, clusters, np.array([3.0, 1.0, 9.0])).mean == pytest.approx(75)
    assert np.isnan(weighted_interval(np.array([np.nan]), np.array(["a"])).mean)


def test_paired_intervals():
    rng = np.random.default_rng(7)
    ours = rng.normal(size=100)
    found = paired_interval(ours + 0.5, ours, np.arange(100))
    assert (found.mean, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))
    with pytest.raises(ValueError, match="pair"):
        paired_interval(ours, ours[1:], np.arange(100))


# -- FROMAGe's directions ---------------------------------------------------------------------------------------------
def test_fromage_ranks_dialogues_for_each_picture():
    """Its script's top-k runs along the dialogues, and its pictures are not normalised."""

    rng = np.random.default_rng(8)
    dialogues, pictures = (rng.normal(size=(50, 8)).astype(np.float32) for _ in range(2))
    pictures += 0.5 * dialogues
    script = pictures @ dialogues.T
    best = np.argsort(-script, axis=1)
    released = {k: 100 * np.mean([n in best[n, :k] for n in range(50)]) for k in (1, 5, 10)}
    every = np.arange(50)
    lengths = np.linalg.norm(pictures, axis=1, keepdims=True)
    found = {}
    for name, rows in (("plain", pictures), ("unit", pictures / lengths)):
        system = Encoded(None, dialogues, {"image": rows}, ("image",))
        found[name] = _dialogue_ranks(system, every, every), gold_ranks(system, "image", every, every)
    for name in found:
        assert {k: v.mean() for k, v in recall_values(found[name][0]).items()} == {
            f"r{k}": pytest.approx(value) for k, value in released.items()
        }
    # In that direction lengths are harmless; in the other one they are not.
    assert not np.array_equal(found["plain"][1], found["unit"][1])
    forward = recall_values(found["unit"][1])
    assert any(forward[f"r{k}"].mean() != pytest.approx(released[k]) for k in (1, 5, 10))


def test_ranks_over_all_candidates_against_the_definition():

    rng = np.random.default_rng(9)
    for _ in range(200):
        queries, candidates = int(rng.integers(1, 5)), int(rng.integers(2, 8))
        vectors = rng.integers(0, 3, (candidates, 2)).astype(np.float32)
        vectors[rng.random(candidates) < 0.2] = np.nan
        asked = rng.integers(0, 3, (queries, 2)).astype(np.float32)
        golds = rng.integers(0, candidates, queries)
        hidden = [[n for n in range(candidates) if n != gold and rng.random() < 0.3] for gold in golds]
        found = gold_ranks(Encoded(None, asked, {"image": vectors}), "image", np.arange(queries), golds, hidden)
        scores = asked @ vectors.T
        for row, gold in enumerate(golds):
            if np.isnan(scores[row, gold]):
                assert found[row] == 0
                continue
            others = [n for n in range(candidates) if n != gold and n not in hidden[row]]
            assert found[row] == 1 + sum(scores[row, n] >= scores[row, gold] for n in others)


def test_a_kind_that_a_system_does_not_rank_counts_as_missed():

    system = Encoded(None, np.ones((2, 2)), {"image": np.ones((3, 2))}, ("image",))
    assert gold_ranks(system, "text", np.arange(2), np.zeros(2, int)).tolist() == [0, 0]
