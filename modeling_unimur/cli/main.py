"""Entry point of the `unimur` command.

`unimur --help` must answer at once, so a sub-command's module is imported only when it is called, and none imports
torch before its arguments are checked.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import NoReturn

from ..data.registry import load_module
from .errors import CommandError

# Name -> (module of this package, or another one with its package; one-line help).
# A module has `add_arguments(parser)` and `run(args) -> int`.
COMMANDS = {
    "demo": (
        "unimur_mini.demo.command",
        "answer example dialogues from a gallery of images; writes a page and a contact sheet",
    ),
    "chat": ("chat", "chat in the terminal with texts and images"),
    "app": ("app", "chat in the browser, with a gallery to search"),
    "train": ("train", "run a training recipe"),
    "adapt": ("adapt", "fit heads that query an existing index with a conversation, without re-encoding it"),
    "compare": ("compare", "compare retrieval systems on the same dialogues: recall, time and memory"),
    "evaluate": ("evaluate", "run a paper's protocol on its data, or merge runs into one table"),
    "reproduce": ("reproduce", "train and evaluate a paper, with its published figures beside ours"),
    "cache": ("cache", "compute the frozen features of a recipe before training"),
    "verbalize": ("verbalize", "describe the images of a retrieval set in words, for UniVL-DR"),
    "mine": ("mine", "mine hard negatives of a retrieval set with a trained UniVL-DR"),
    "index": ("index", "encode a corpus into an index, update it, or search it"),
    "serve": ("serve", "answer dialogues over HTTP, in batches"),
    "release": ("release", "check a model, try it in a fresh process and upload it to the Hub"),
}
INTERRUPTED = 130  # 128 + SIGINT, as shells report it
FAILED = 2


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, like all errors of this command."""

    def error(self, message: str) -> NoReturn:
        raise CommandError(f"{message} (see `{self.prog} --help`)")


def _add_debug(parser: argparse.ArgumentParser, default: object) -> None:
    parser.add_argument("--debug", action="store_true", default=default, help="show the traceback of an error")


def _module(command: str) -> ModuleType:
    name = COMMANDS[command][0]
    return load_module(name) if "." in name else importlib.import_module(f"{__package__}.{name}")


def build_parser(command: str | None) -> argparse.ArgumentParser:
    """The parser; only `command`'s own arguments are added, so only its module is imported."""
    parser = _Parser(
        prog="unimur",
        allow_abbrev=False,
        description="Retrieve the text and the image of a reply with one embedding of the conversation.",
    )
    parser.add_argument("--version", action="store_true", help="print the versions of unimur and its libraries")
    _add_debug(parser, False)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, (_, summary) in COMMANDS.items():
        description = summary[0].upper() + summary[1:] + "."
        child = commands.add_parser(name, help=summary, description=description, allow_abbrev=False)
        # Without the suppressed default, the sub-command would reset a `--debug` that stands before its name.
        _add_debug(child, argparse.SUPPRESS)
        if name == command:
            _module(name).add_arguments(child)
    return parser


def library_versions() -> dict[str, str]:
    """Installed versions of this package and of what it runs on, without importing any of them."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {}
    for name in ("unimur", "torch", "transformers"):
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    text = " ".join(str(error).split())
    if isinstance(error, (CommandError, OSError, ValueError, ImportError, RuntimeError)) and text:
        return text
    return f"unexpected {type(error).__name__}: {text} (--debug shows where)"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0, 2 after an error, 130 after Ctrl-C.

    Args:
        argv: arguments without the program's name, by default those of the process.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    # A terminal that cannot show a character shows "?", and a pipe with broken UTF-8 is read all the same.
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    # transformers imports torchao where it is installed, and torch tells its developers of a registration in it.
    os.environ.setdefault("TORCH_LOGS", "-torch.utils._pytree")
    try:
        parser = build_parser(next((word for word in argv if not word.startswith("-")), None))
        args = parser.parse_args(argv)
        if args.version:
            print(", ".join(f"{name} {version}" for name, version in library_versions().items()))
            return 0
        if args.command is None:
            parser.print_help()
            return 0
        return _module(args.command).run(args)
    except KeyboardInterrupt:
        print("\nunimur: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader (`head`, a pager) has what it wanted. Python would complain again while closing the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if "--debug" in argv:
            raise
        print(f"unimur: {_one_line(error)}", file=sys.stderr)
        return FAILED


if __name__ == "__main__":
    sys.exit(main())
