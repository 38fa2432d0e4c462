"""`unimur compare`: systems on the same dialogues."""

from __future__ import annotations

import argparse
from pathlib import Path

from .backbone_arguments import add_backbones, add_trust, opening_arguments
from .errors import CommandError
from .number_arguments import positive_integer
from .retriever import chosen_systems, model_source

SYSTEMS = ("bm25", "clip-last", "clip-whole", "clip-anchor", "clip-linear", "unimur")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `unimur compare`."""
    parser.add_argument(
        "--dialogues",
        default="dev",
        metavar="FILE",
        help="JSON lines with turns, and gold_text or gold_image; dev or test, written by hand; or chats, 1,000 of "
        "real people (default: dev)",
    )
    add_backbones(parser)
    add_trust(parser)
    parser.add_argument("--gallery", metavar="FOLDER", help="candidate images, for a file of your own")
    parser.add_argument(
        "--model", metavar="MODEL", help="a folder or a Hub id (default: the mini that `make demo` builds)"
    )
    parser.add_argument(
        "--systems",
        default=",".join(SYSTEMS),
        metavar="NAMES",
        help=f"comma-separated, from {','.join(SYSTEMS)} (default: all)",
    )
    parser.add_argument(
        "--sentence-transformer", metavar="ID", help="add a sentence-transformers model: a folder or a Hub id"
    )
    parser.add_argument(
        "--linear-texts",
        type=positive_integer,
        default=10_000,
        metavar="N",
        help="number of dialogues and glosses to fit the linear map on (default: 10000)",
    )
    parser.add_argument("--no-times", action="store_true", help="do not measure times")
    parser.add_argument("--seed", type=int, default=0, help="random seed for choosing these texts (default: 0)")
    parser.add_argument(
        "--output", type=Path, default=Path("compare_output"), metavar="FOLDER", help="folder for the report"
    )


def training_text(count: int, seed: int) -> tuple[list[list[str]], list[str]]:
    """Dialogues and glosses of the training split, as the heads of UniMuR-mini see them too."""
    import random

    from ..training.unpaired_texts import DEFAULT_SOURCES, load_texts

    contexts = [context for parts in load_texts(list(DEFAULT_SOURCES)).values() for context in parts["train"]]
    chosen = random.Random(seed).sample(contexts, min(count, len(contexts)))
    return [context.turns for context in chosen], [context.target for context in chosen]


def run(args: argparse.Namespace) -> int:
    """Runs the systems, prints the table and writes `compare.md` and `compare.json`."""
    chosen = chosen_systems(args.systems, SYSTEMS)
    if args.output.exists() and not args.output.is_dir():
        raise CommandError(f"{args.output} is a file; --output takes a folder")
    source = model_source(args.model)

    from ..evaluation.compare import compare
    from ..evaluation.compare_dialogues import load_compared
    from ..evaluation.compare_report import aligned, differences, notes, table, write

    dialogues, gallery = load_compared(args.dialogues, args.gallery)
    systems, left_out = _systems(chosen, source, args)
    found = compare(dialogues, gallery, systems, timed=not args.no_times)
    found.left_out = left_out
    print(aligned(table(found, intervals=False)))
    print()
    names = [system.name for system in systems]
    rivals = [name for name in names if name.startswith("CLIP-T, whole")] if "UniMuR" in names else []
    for line in [*(line for rival in rivals for line in differences(found, "UniMuR", rival)), *notes(found)]:
        print(line)
    about = {"dialogues_from": str(args.dialogues), "model": str(args.model or "unimur-mini"), "seed": args.seed}
    paths = write(found, args.output, f"Retrieval systems on the dialogues of {args.dialogues}", about)
    print(f"Written to {' and '.join(map(str, paths))}, with intervals and by number of turns")
    return 0


def _systems(chosen: list[str], source, args: argparse.Namespace) -> tuple[list, dict[str, str]]:
    """The systems, fitted, and why others are left out."""
    from ..data.packages import PackageUnavailable
    from ..evaluation import systems
    from .retriever import open_retriever

    found, left_out = [], {}
    if "bm25" in chosen:
        try:
            found.append(systems.BM25())
        except ImportError as error:
            left_out["BM25"] = str(error)
    retriever = open_retriever(source, **opening_arguments(args))
    space = systems.ClipSpace(retriever.model, retriever.processor)
    found += [make(space) for name, make in systems.CLIP_TEXTS.items() if name in chosen]
    if "clip-linear" in chosen:
        from ..training.readout_fit import fit_ridge

        linear = systems.ClipTextLinear(space, fit_ridge)
        try:
            linear.fit(*training_text(args.linear_texts, args.seed))
            found.append(linear)
        except PackageUnavailable as error:
            left_out[linear.name] = str(error)
    if args.sentence_transformer:
        found.append(systems.SentenceTransformerSystem(args.sentence_transformer))
    else:
        left_out["sentence-transformers"] = "name a model with --sentence-transformer ID."
    if "unimur" in chosen:
        found.append(systems.UniMuR(space))
    if not found:
        raise CommandError(f"no system is left: {'; '.join(left_out.values())}")
    return found, left_out
