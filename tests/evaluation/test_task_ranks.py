"""Ranks within pools, over all candidates and of answer options, against straightforward computations."""

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from modeling_unimur.evaluation.evaluator import Encoded
from modeling_unimur.evaluation.metrics import recall_values
from modeling_unimur.evaluation.tasks.replies import rank_in_pools
from modeling_unimur.evaluation.tasks.visdial import answer_values

CASES = 1000


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
        system = Encoded(None, dialogues, {"image": rows})
        found[name] = system.query_ranks("image", every, every), system.gold_ranks("image", every, every)
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
        found = Encoded(None, asked, {"image": vectors}).gold_ranks("image", np.arange(queries), golds, hidden)
        scores = asked @ vectors.T
        for row, gold in enumerate(golds):
            if np.isnan(scores[row, gold]):
                assert found[row] == 0
                continue
            others = [n for n in range(candidates) if n != gold and n not in hidden[row]]
            assert found[row] == 1 + sum(scores[row, n] >= scores[row, gold] for n in others)


def test_a_kind_that_a_system_does_not_rank_counts_as_missed():

    system = Encoded(None, np.ones((2, 2)), {"image": np.ones((3, 2))})
    assert system.gold_ranks("text", np.arange(2), np.zeros(2, int)).tolist() == [0, 0]
