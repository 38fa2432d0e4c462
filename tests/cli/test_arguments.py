"""Arguments that several commands share: numbers and the second stage."""

from __future__ import annotations

import argparse

import pytest

from modeling_unimur.cli.arguments import (
    add_reranker,
    non_negative_integer,
    opened_reranker,
    positive_integer,
)
from tests import tiny


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [(positive_integer, "1", 1), (non_negative_integer, "0", 0)],
)
def test_numbers_in_range(kind, text, value):
    assert kind(text) == value


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        *((positive_integer, text) for text in ("0", "-1", "1.5", "x", "")),
        *((non_negative_integer, text) for text in ("-1", "1.5", "x", "")),
    ],
)
def test_numbers_out_of_range(kind, text):
    with pytest.raises(argparse.ArgumentTypeError, match=repr(text)):
        kind(text)


def parsed(*words, **options):
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_reranker(parser, "rescore", **options)
    return parser.parse_args(words)


def test_a_model_is_opened(tmp_path):
    assert opened_reranker(parsed()) is None
    assert parsed().rerank_top_k == 50
    args = parsed("--reranker", str(tiny.cross_encoder(tmp_path)), "--rerank-top-k", "7")
    assert args.rerank_top_k == 7
    assert hasattr(opened_reranker(args), "rerank")
    assert not hasattr(parsed(with_top_k=False), "rerank_top_k")


@pytest.mark.parametrize("words", [("--rerank-top-k", "0"), ("--rerank-top-k", "x")])
def test_a_number_of_hits_is_positive(words):
    with pytest.raises(argparse.ArgumentError, match="positive"):
        parsed(*words)
