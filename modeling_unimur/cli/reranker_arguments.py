"""The arguments of a second stage, which `index search`, `serve` and `mine` share."""

from __future__ import annotations

import argparse
from typing import Any

from .number_arguments import positive_integer


def add_reranker(parser: argparse.ArgumentParser, purpose: str, with_top_k: bool = True) -> None:
    """Adds `--reranker`, and `--rerank-top-k` where a search has hits to rescore."""
    parser.add_argument(
        "--reranker", metavar="MODEL", help=f"{purpose}: folder or Hub id of a CrossEncoder or MultiVectorEncoder"
    )
    if with_top_k:
        parser.add_argument(
            "--rerank-top-k", type=positive_integer, default=50, metavar="N",
            help="hits of the first stage to rescore (default: 50)",
        )  # fmt: skip


def opened_reranker(args: argparse.Namespace) -> Any:
    """What rescores; None without `--reranker`. Raises: as `open_reranker`."""
    from ..index.second_stage import open_reranker

    if args.reranker is None:
        return None
    return open_reranker(args.reranker, getattr(args, "trust_remote_code", False))


__all__ = ["add_reranker", "opened_reranker"]
