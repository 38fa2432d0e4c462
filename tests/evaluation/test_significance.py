"""Intervals against what theory says."""

import numpy as np
import pytest

from modeling_unimur.evaluation.significance import bootstrap, paired_bootstrap


def test_interval_is_that_of_the_normal_approximation():
    hits = (np.random.default_rng(1).random(2000) < 0.3).astype(float)
    found = bootstrap(hits)
    half = 1.96 * hits.std() / np.sqrt(len(hits))
    assert found.mean == hits.mean()
    assert found.low == pytest.approx(hits.mean() - half, abs=0.15 * half)
    assert found.high == pytest.approx(hits.mean() + half, abs=0.15 * half)


def test_pairs_are_sharper_than_two_systems_apart():
    rng = np.random.default_rng(2)
    easy = rng.random(500)  # what both find hard is hard for both
    ours, theirs = (easy > 0.4).astype(float), (easy > 0.45).astype(float)
    paired = paired_bootstrap(ours, theirs)
    assert paired.mean == pytest.approx(ours.mean() - theirs.mean())
    assert 0 < paired.low < paired.mean < paired.high
    assert paired.high - paired.low < bootstrap(ours).high - bootstrap(ours).low


def test_runs_are_averaged_and_queries_resampled():
    runs = np.array([[0.0, 1.0, 0.0, 1.0], [1.0, 0.0, 1.0, 0.0]])
    found = bootstrap(runs)
    assert (found.mean, found.low, found.high) == (0.5, 0.5, 0.5)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="no values"):
        bootstrap(np.array([]))
    with pytest.raises(ValueError, match="2 queries against 3"):
        paired_bootstrap(np.ones(2), np.ones(3))
