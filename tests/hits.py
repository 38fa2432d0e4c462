"""Comparing what a search returns."""

from __future__ import annotations

from dataclasses import asdict, is_dataclass

import pytest

# What rounding changes in a score. Candidates that are nearer to each other than that may change places.
_ROUNDING = 1e-5
# Further scores of a hit.
_ROUNDED = ("cosine", "first_score")


def assert_same_hits(found: list, expected: list) -> None:
    """The same items with the same scores, in the same order, up to rounding.

    One at a time: pytest takes minutes to tell two long nested lists apart.
    """
    assert len(found) == len(expected)
    left = [asdict(hit) if is_dataclass(hit) else hit for hit in expected]
    scores = [hit["score"] for hit in left]
    for hit, score in zip(found, scores, strict=True):
        mine = asdict(hit) if is_dataclass(hit) else hit
        assert mine["score"] == pytest.approx(score, abs=_ROUNDING)
        near = [other for other in left if abs(other["score"] - mine["score"]) <= _ROUNDING]
        same = [other for other in near if _named(other) == _named(mine)]
        assert same, f"{mine} is not one of {near}"
        for name in _ROUNDED:
            if same[0].get(name) is not None:
                assert mine[name] == pytest.approx(same[0][name], abs=_ROUNDING)
        left.remove(same[0])


def _named(hit: dict) -> dict:
    """What of a hit does not round."""
    return {**hit, "score": 0, **{name: hit.get(name) is not None for name in _ROUNDED}}


def assert_same_answer(found: dict, expected: dict) -> None:
    """The same hits of every kind."""
    assert found.keys() == expected.keys()
    for kind in expected:
        assert_same_hits(found[kind], expected[kind])


def assert_same_answers(found: list, expected: list) -> None:
    """The same hits of every query."""
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        assert_same_hits(mine, theirs)


def answered(answerer, requests: list) -> list:
    """What a server's `Answerer` answers to requests that arrive together."""
    return answerer.rank(list(zip(answerer.embed(requests), requests, strict=True)))
