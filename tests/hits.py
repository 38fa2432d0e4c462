"""Comparing what a search returns."""

import pytest


def assert_same_hits(found: list, expected: list) -> None:
    """The same items in the same order, with the same scores up to rounding.

    One at a time: pytest takes minutes to tell two long nested lists apart.
    """
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        assert {**mine, "score": 0} == {**theirs, "score": 0}
        assert mine["score"] == pytest.approx(theirs["score"], abs=1e-5)


def assert_same_answer(found: dict, expected: dict) -> None:
    """The same hits of every kind."""
    assert found.keys() == expected.keys()
    for kind in expected:
        assert_same_hits(found[kind], expected[kind])
