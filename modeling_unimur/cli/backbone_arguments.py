"""`--language-model`, `--clip` and `--trust-remote-code` of every command that opens a model."""

from __future__ import annotations

import argparse
from pathlib import Path

from .errors import CommandError


def add_backbones(parser: argparse.ArgumentParser) -> None:
    """Adds `--language-model` and `--clip`, which name the frozen parts of a model that was saved without them."""
    for flag, words in (("--language-model", "language model"), ("--clip", "dual encoder")):
        parser.add_argument(
            flag, metavar="MODEL", help=f"frozen {words}: a folder or a Hub id (default: the saved one)"
        )


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Adds `--trust-remote-code`."""
    parser.add_argument(
        "--trust-remote-code",
        action="store_true",
        help="run Python code from the model's folder; needed by models other than UniMuR and UniVL-DR",
    )


def opening_arguments(args: argparse.Namespace) -> dict:
    """What a command line says about opening a model, as arguments of `retriever.open_retriever`.

    Raises:
        CommandError: a backbone's path is no folder.
    """
    return {
        "quiet": not args.debug,
        "backbones": chosen_backbones(args),
        "trust_remote_code": args.trust_remote_code,
    }


def chosen_backbones(args: argparse.Namespace) -> dict[str, str]:
    """What `add_backbones` has read, as arguments of `from_pretrained`.

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
