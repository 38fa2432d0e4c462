"""Intervals against what theory says."""

import numpy as np
import pytest
from scipy.stats import bootstrap as scipy_bootstrap

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
    with pytest.raises(ValueError, match=r"shapes? .*\(2,\) \(3,\)"):
        paired_bootstrap(np.ones(2), np.ones(3))


def test_intervals_draw_whole_dialogues():
    rng = np.random.default_rng(6)
    level = rng.normal(size=40)  # replies of a dialogue are alike
    clusters = np.repeat(np.arange(40), 5)
    values = level[clusters] + 0.1 * rng.normal(size=200)
    found = bootstrap(values, clusters)
    assert found.mean == pytest.approx(values.mean())
    means = values.reshape(40, 5).mean(axis=1)
    wanted = scipy_bootstrap((means,), np.mean, method="percentile", n_resamples=4000, rng=0).confidence_interval
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=0.03)
    alone = bootstrap(values, np.arange(200))
    assert found.high - found.low > 1.5 * (alone.high - alone.low)


def test_weights_and_values_that_do_not_apply():
    values, clusters = np.array([100.0, 0.0, np.nan]), np.array(["a", "b", "b"])
    assert bootstrap(values, clusters, np.array([3.0, 1.0, 9.0])).mean == pytest.approx(75)
    assert np.isnan(bootstrap(np.array([np.nan]), np.array(["a"])).mean)


def test_paired_intervals():
    rng = np.random.default_rng(7)
    ours = rng.normal(size=100)
    found = paired_bootstrap(ours + 0.5, ours, np.arange(100))
    assert (found.mean, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))
    with pytest.raises(ValueError, match=r"\(100,\) \(99,\)"):
        paired_bootstrap(ours, ours[1:], np.arange(100))
