"""What the commands that read a recipe have in common."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import CommandError

if TYPE_CHECKING:
    from ..training.recipes import Recipe


def add_recipe_arguments(parser: argparse.ArgumentParser, example: str) -> None:
    """The recipe and what wins over it; `example` is one such `section.field=value`."""
    parser.add_argument("recipe", metavar="RECIPE", help="a YAML file, such as those in recipes/")
    parser.add_argument(
        "overrides", nargs="*", metavar="SECTION.FIELD=VALUE", help=f"override values of the file, such as {example}"
    )


def recipe_of(args: argparse.Namespace) -> Recipe:
    """The recipe that was asked for; a typo in its path is told before torch is imported."""
    if not Path(args.recipe).is_file():
        others = sorted(path.name for path in Path(args.recipe).parent.glob("*.yaml"))
        raise CommandError(
            f"there is no recipe {args.recipe}" + (f"; its folder has {', '.join(others)}" * bool(others))
        )
    from ..training.recipes import load_recipe

    return load_recipe(args.recipe, args.overrides)
