"""`unimur train`: run a recipe."""

from __future__ import annotations

import argparse
import json

from .arguments import add_recipe_arguments, recipe_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `unimur train`."""
    add_recipe_arguments(parser, "training.max_steps=100")
    again = parser.add_mutually_exclusive_group()
    again.add_argument(
        "--resume",
        action="store_true",
        help="continue from the last complete checkpoint in the output folder, or start if there is none",
    )
    again.add_argument(
        "--overwrite", action="store_true", help="remove the checkpoints in the output folder and start over"
    )


def run(args: argparse.Namespace) -> int:
    """Trains, and prints the recalls on the test split."""
    recipe = recipe_of(args)
    import logging

    from ..training.callbacks import require_reporters
    from ..training.checkpoints import starting_point

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    require_reporters(recipe.training)
    if recipe.task == "univl_dr":
        from ..training.train_univl_dr import train

        return _tell(recipe, train(recipe, args.resume, args.overwrite))
    recipe.training.resume_from_checkpoint = starting_point(recipe.training, args.resume, args.overwrite)
    if recipe.task == "clip" and recipe.data.images:
        from ..training.train_captioned_images import train
    elif recipe.task == "clip":
        from ..data.registry import CLIP_TRAINING, load_function

        train = load_function(CLIP_TRAINING)
    else:
        from ..training.train_unimur import train
    return _tell(recipe, train(recipe))


def _tell(recipe, results: dict) -> int:
    if recipe.training.process_index == 0:  # of several ranks one tells
        print(json.dumps(results, indent=1))
        print(f"Written to {recipe.training.output_dir}")
    return 0
