"""Arguments that several commands share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import CommandError

if TYPE_CHECKING:
    from ..training.recipes import Recipe


# -- numbers; a value out of range is an error of the argument --------------------------------------------------------
def positive_integer(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a positive integer, got {text!r}")
    return int(text)


def non_negative_integer(text: str) -> int:
    return 0 if text == "0" else positive_integer(text)


# -- models -----------------------------------------------------------------------------------------------------------
def add_backbones(parser: argparse.ArgumentParser) -> None:
    """Adds `--language-model` and `--clip`, which name the frozen parts of a model that was saved without them."""
    for flag, words in (("--language-model", "language model"), ("--clip", "dual encoder")):
        parser.add_argument(
            flag, metavar="MODEL", help=f"frozen {words}: a folder or a Hub id (default: the saved one)"
        )


def add_model_and_index(parser: argparse.ArgumentParser) -> None:
    """Adds `--model`, its frozen parts, `--index` and `--collection`."""
    parser.add_argument(
        "--model",
        metavar="FOLDER",
        help="model folder, or univl-dr-mini (default: unimur-mini, as `make demo` built it)",
    )
    parser.add_argument(
        "--index",
        required=True,
        metavar="URI",
        help="a folder; a Milvus file *.db or server's address; qdrant+FOLDER or qdrant+ADDRESS; or lancedb+FOLDER",
    )
    parser.add_argument("--collection", metavar="NAME", help="collection of a database")
    add_backbones(parser)


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Adds `--trust-remote-code`."""
    parser.add_argument(
        "--trust-remote-code",
        action="store_true",
        help="run Python code from the model's folder; needed by models other than UniMuR and UniVL-DR",
    )


def opening_arguments(args: argparse.Namespace) -> dict:
    """Arguments of `retriever.open_retriever` from a parsed command line.

    Raises:
        CommandError: a backbone's path is no folder.
    """
    return {"quiet": not args.debug, "backbones": chosen_backbones(args), "trust_remote_code": args.trust_remote_code}


def chosen_backbones(args: argparse.Namespace) -> dict[str, str]:
    """Arguments of `from_pretrained` from what `add_backbones` parsed.

    Raises:
        CommandError: a path that is no folder.
    """
    found = {}
    for name in ("language_model", "clip"):
        given = getattr(args, name)
        if given is None:
            continue
        folder = Path(given).expanduser()
        if not folder.is_dir() and (given.count("/") > 1 or given.startswith((".", "/", "~"))):
            raise CommandError(f"--{name.replace('_', '-')} {given}: no such folder, and no Hub id such as owner/name")
        found[name] = str(folder) if folder.is_dir() else given
    return found


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
    """Opens the reranker; None without `--reranker`. Raises: as `open_reranker`."""
    from ..index.second_stage import open_reranker

    if args.reranker is None:
        return None
    return open_reranker(args.reranker, getattr(args, "trust_remote_code", False))


# -- recipes ----------------------------------------------------------------------------------------------------------
def add_recipe_arguments(parser: argparse.ArgumentParser, example: str) -> None:
    """Adds the recipe and the values that override it; `example` is one such `section.field=value`."""
    parser.add_argument("recipe", metavar="RECIPE", help="a YAML file, such as those in recipes/")
    parser.add_argument(
        "overrides", nargs="*", metavar="SECTION.FIELD=VALUE", help=f"override values of the file, such as {example}"
    )


def recipe_of(args: argparse.Namespace) -> Recipe:
    """Reads the recipe; a wrong path is reported before torch is imported."""
    if not Path(args.recipe).is_file():
        others = sorted(path.name for path in Path(args.recipe).parent.glob("*.yaml"))
        raise CommandError(
            f"there is no recipe {args.recipe}" + (f"; its folder has {', '.join(others)}" * bool(others))
        )
    from ..training.recipes import load_recipe

    return load_recipe(args.recipe, args.overrides)
