"""`unimur train`: run a recipe."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from .errors import CommandError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `unimur train`."""
    parser.add_argument("recipe", metavar="RECIPE", help="a YAML file, such as those in recipes/")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="SECTION.FIELD=VALUE",
        help="wins over the file, such as training.max_steps=100",
    )
    again = parser.add_mutually_exclusive_group()
    again.add_argument(
        "--resume",
        action="store_true",
        help="go on from the last complete checkpoint in the output folder; start where there is none",
    )
    again.add_argument(
        "--overwrite", action="store_true", help="remove the checkpoints in the output folder and start again"
    )


def run(args: argparse.Namespace) -> int:
    """Trains, and prints the recalls on the test split."""
    if not Path(args.recipe).is_file():
        raise CommandError(f"there is no recipe {args.recipe}")
    import logging

    from ..training.checkpoints import starting_point
    from ..training.recipes import load_recipe
    from ..training.training_log import require_reporters

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    recipe = load_recipe(args.recipe, args.overrides)
    require_reporters(recipe.training)
    recipe.training.resume_from_checkpoint = starting_point(recipe.training, args.resume, args.overwrite)
    if recipe.task == "clip":
        from ..training.train_clip import train
    else:
        from ..training.train_unimur import train
    results = train(recipe)
    if recipe.training.process_index == 0:  # of several ranks one tells
        print(json.dumps(results, indent=1))
        print(f"Written to {recipe.training.output_dir}")
    return 0
