"""`unimur cache`: compute every frozen feature that a recipe needs, before it trains."""

from __future__ import annotations

import argparse
from pathlib import Path

from .errors import CommandError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `unimur cache`."""
    parser.add_argument("recipe", metavar="RECIPE", help="a YAML file, such as those in recipes/")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="SECTION.FIELD=VALUE",
        help="wins over the file, such as data.feature_dtype=bfloat16",
    )
    parser.add_argument("--device", help="where the frozen towers run, such as cuda:1; an accelerator if there is one")


def run(args: argparse.Namespace) -> int:
    """Computes what is not there yet, goes on where a killed call stopped, and prints what lies where."""
    if not Path(args.recipe).is_file():
        raise CommandError(f"there is no recipe {args.recipe}")
    import logging

    from ..training.cached_recipe import cache_recipe
    from ..training.recipes import load_recipe

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    splits = cache_recipe(load_recipe(args.recipe, args.overrides), args.device, print)
    counts = ", ".join(f"{len(pairs.paths):,} {name}" for name, pairs in splits.items())
    print(f"Ready to train: pictures {counts}.")
    return 0
