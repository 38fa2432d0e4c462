"""The arguments of a second stage."""

import argparse

import pytest

from modeling_unimur.cli.reranker_arguments import add_reranker, opened_reranker
from tests import tiny


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
