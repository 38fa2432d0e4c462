"""`unimur cache`: compute every frozen feature that a recipe needs, before it trains."""

from __future__ import annotations

import argparse

from .arguments import add_recipe_arguments, recipe_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `unimur cache`."""
    add_recipe_arguments(parser, "data.feature_dtype=bfloat16")
    parser.add_argument(
        "--device", help="device of the frozen towers, such as cuda:1 (default: an accelerator if available)"
    )


def run(args: argparse.Namespace) -> int:
    """Computes missing features, resumes an interrupted call, and prints where they are stored."""
    recipe = recipe_of(args)
    import logging

    from ..training.alignment_data import cache_recipe

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    splits = cache_recipe(recipe, args.device, print)
    counts = ", ".join(f"{len(pairs.paths):,} {name}" for name, pairs in splits.items())
    print(f"Ready to train: images {counts}.")
    return 0
