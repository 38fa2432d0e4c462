"""`unimur compare`: systems on the same dialogues."""

from __future__ import annotations

import argparse
from pathlib import Path

from .arguments import add_backbones, add_trust
from .compared_systems import SYSTEMS as ALL_SYSTEMS
from .compared_systems import add_systems, open_systems, require_folder, show_and_save
from .retriever import chosen_systems, model_source

SYSTEMS = tuple(name for name in ALL_SYSTEMS if name != "chance")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `unimur compare`."""
    parser.add_argument(
        "--dialogues",
        default="dev",
        metavar="FILE",
        help="JSON lines with turns, and gold_text or gold_image; dev or test, written by hand; or chats, 1,000 "
        "contexts of real chats (default: dev)",
    )
    add_backbones(parser)
    add_trust(parser)
    parser.add_argument("--gallery", metavar="FOLDER", help="candidate images, for a file of your own")
    parser.add_argument(
        "--model", metavar="MODEL", help="a folder or a Hub id (default: the mini that `make demo` builds)"
    )
    add_systems(parser, SYSTEMS, SYSTEMS)
    parser.add_argument("--no-times", action="store_true", help="do not measure times")
    parser.add_argument(
        "--seed", type=int, default=0, help="random seed of the linear map's texts, intervals and chance (default: 0)"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("compare_output"), metavar="FOLDER", help="folder for the report"
    )


def run(args: argparse.Namespace) -> int:
    """Runs the systems, prints the table and writes `results.json`, `values.npz` and `table.md`."""
    chosen = chosen_systems(args.systems, SYSTEMS)
    require_folder(args.output)
    source = model_source(args.model)

    from ..evaluation.compare_dialogues import load_compared
    from ..evaluation.report import aligned
    from ..evaluation.tasks.dialogues import compare_systems

    dialogues, gallery = load_compared(args.dialogues, args.gallery)
    systems, left_out = open_systems(chosen, [source], args, ["UniMuR"])
    if not args.sentence_transformer:
        left_out["sentence-transformers"] = "name a model with --sentence-transformer ID."
    data = {"path": str(args.dialogues), "model": str(args.model or "unimur-mini")}
    found = compare_systems(dialogues, gallery, systems, timed=not args.no_times, data=data, seed=args.seed)
    show_and_save(found, args.output, left_out)
    rival = "CLIP-T, whole dialogue"
    if {"UniMuR", rival} <= set(found.systems):
        print(aligned(found.differences(rival, ["UniMuR"])))
    return 0
