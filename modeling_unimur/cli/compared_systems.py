"""Opens the systems that `unimur compare` and `unimur evaluate` compare."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from .arguments import opening_arguments, positive_integer
from .errors import CommandError

SYSTEMS = ("unimur", "clip-last", "clip-whole", "clip-anchor", "clip-linear", "bm25", "chance")


def add_systems(
    parser: argparse.ArgumentParser, default: Sequence[str], known: Sequence[str], about: str = ""
) -> None:
    """Adds the arguments that choose the systems; `about` is further help on `--systems`."""
    but = "".join(f" but {name}" for name in known if name not in default)
    parser.add_argument(
        "--systems",
        default=",".join(default),
        metavar="NAMES",
        help=f"comma-separated, from {','.join(known)}{about} (default: all{but})",
    )
    parser.add_argument(
        "--sentence-transformer", metavar="ID", help="add a sentence-transformers model: a folder or a Hub id"
    )
    parser.add_argument(
        "--linear-texts",
        type=positive_integer,
        default=10_000,
        metavar="N",
        help="number of dialogues and glosses to fit clip-linear on (default: 10000)",
    )


def training_text(count: int, seed: int) -> tuple[list[list[str]], list[str]]:
    """Dialogues and glosses of the training split, as the heads of UniMuR-mini see them too."""
    import random

    from ..training.context_rows import DEFAULT_SOURCES, load_texts

    contexts = [context for parts in load_texts(list(DEFAULT_SOURCES)).values() for context in parts["train"]]
    chosen = random.Random(seed).sample(contexts, min(count, len(contexts)))
    return [context.turns for context in chosen], [context.target for context in chosen]


def open_systems(
    chosen: list[str], sources: list[str], args: argparse.Namespace, names: list[str] | None = None
) -> tuple[list, dict[str, str]]:
    """The systems, fitted, UniMuR first, and why others are left out.

    Args:
        chosen: names out of `SYSTEMS`.
        sources: folders or Hub ids of models; CLIP is that of the first one.
        names: names of the models' rows; the last parts of their sources by default.

    Raises:
        CommandError: nothing is left.
    """
    from ..data.cache import PackageUnavailable
    from ..evaluation import systems
    from ..evaluation.provenance import model_revision
    from ..training.readout_fit import fit_ridge
    from .retriever import open_retriever

    found, left_out, spaces = [], {}, []
    names = names or [_name(source, sources) for source in sources]
    wanted = any(name.startswith(("unimur", "clip")) for name in chosen)
    for row, source in zip(names, sources, strict=True) if wanted else ():
        retriever = open_retriever(source, **opening_arguments(args))
        space = systems.ClipSpace(retriever.model, retriever.processor)
        spaces.append((space, source, model_revision(source, retriever.model)))
        if "unimur" in chosen:
            found.append(_known(systems.UniMuR(space, row), *spaces[-1][1:]))
    for name, make in systems.CLIP_TEXTS.items():
        if name in chosen:
            found.append(_known(make(spaces[0][0]), *spaces[0][1:]))
    if "clip-linear" in chosen:
        linear = systems.ClipTextLinear(spaces[0][0], fit_ridge)
        try:
            linear.fit(*training_text(args.linear_texts, args.seed))
            state = f"{spaces[0][2]}, fitted on {args.linear_texts} texts of seed {args.seed}"
            found.append(_known(linear, spaces[0][1], state))
        except PackageUnavailable as error:
            left_out[linear.name] = str(error)
    if args.sentence_transformer:
        encoder = systems.SentenceTransformerSystem(args.sentence_transformer)
        revision = model_revision(args.sentence_transformer, getattr(encoder.encoder[0], "auto_model", None))
        found.append(_known(encoder, args.sentence_transformer, revision))
    if "bm25" in chosen:
        try:
            found.append(systems.BM25())
        except ImportError as error:
            left_out["BM25"] = str(error)
    if "chance" in chosen:
        found.append(systems.Chance(args.seed))
    if not found:
        raise CommandError(f"no system is left: {'; '.join(left_out.values())}")
    return found, left_out


def _known(system, source: str, revision: str):
    """Records a system's source and revision, so that its batches can be cached."""
    system.source = source
    if revision != "unknown":
        system.revision = revision
    return system


def _name(source: str, sources: list[str]) -> str:
    """The last part of a model's address, or all of it where two end alike."""
    last = [Path(other).name for other in sources]
    return Path(source).name if last.count(Path(source).name) == 1 else source


def require_folder(output: Path | None) -> None:
    """Raises CommandError where the folder of results is a file."""
    if output is not None and output.is_file():
        raise CommandError(f"{output} is a file; --output takes a folder")


def show_and_save(found, output: Path, left_out: dict[str, str]) -> None:
    """Prints a result, with the reasons for which systems are left out of it, and writes it."""
    found.notes += [f"{name} is left out: {reason}" for name, reason in left_out.items()]
    paths = found.save(output)
    print(found.text())
    for line in found.lines():
        print(line)
    print(f"Written to {', '.join(map(str, paths))}, with intervals and paired differences")
