"""Numbers of the command line."""

from __future__ import annotations

import argparse

import pytest

from modeling_unimur.cli.number_arguments import non_negative_integer, non_negative_number, positive_integer


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [(positive_integer, "1", 1), (non_negative_integer, "0", 0), (non_negative_number, "0.5", 0.5)],
)
def test_numbers_in_range(kind, text, value):
    assert kind(text) == value


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        *((positive_integer, text) for text in ("0", "-1", "1.5", "x", "")),
        *((non_negative_integer, text) for text in ("-1", "1.5", "x", "")),
        *((non_negative_number, text) for text in ("-0.1", "nan", "inf", "x", "")),
    ],
)
def test_numbers_out_of_range(kind, text):
    with pytest.raises(argparse.ArgumentTypeError, match=repr(text)):
        kind(text)
