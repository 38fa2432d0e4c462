"""`unimur chat`: a conversation in the terminal, answered with retrieved texts and images."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arguments import add_backbones, add_trust, opening_arguments
from .errors import CommandError

if TYPE_CHECKING:
    from .gallery import GalleryImage

TOP_K = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this sub-command's arguments."""
    parser.add_argument("--model", metavar="FOLDER", help="model folder (default: the mini model of `make demo`)")
    add_backbones(parser)
    add_trust(parser)
    parser.add_argument(
        "--index",
        metavar="INDEX",
        help="saved index, or a database's address (default: the last one of `unimur demo`)",
    )
    parser.add_argument("--coherent", action="store_true", help="prefer texts and images that agree with each other")


def open_with_index(args: argparse.Namespace) -> tuple[Any, dict[str, GalleryImage]]:
    """The pipeline of `--model` with the index of `--index`, which is named then, and what is known of the index's
    images by their ids.

    Raises:
        CommandError: there is no such model or index.
    """
    from ..index import is_database, open_index
    from .gallery import GALLERY_FILE, INDEX_FOLDER, load_index, model_key, newest_index, read_gallery
    from .retriever import load_as_built, model_folder, open_retriever
    from .retriever import open_with_index as open_database

    model, opening = model_folder(args.model), opening_arguments(args)
    if args.index is not None and is_database(args.index):
        return open_database(model, args.index, **opening), {}
    if args.index is not None:
        folder = Path(args.index).expanduser()
        if not folder.is_dir():
            raise CommandError(f"no index at {folder}; `unimur index build SOURCE --index {folder}` makes one")
    else:
        folder = newest_index(model_key(model))
        if folder is None:
            raise CommandError(
                f"no saved index for {model.name}; run `unimur demo` once, or name one with --index DIR"
            )
        args.index = str(folder)
    print(f"Loading the model {model.name} ...", flush=True)
    retriever = open_retriever(model, **opening)
    if (folder / GALLERY_FILE).is_file():
        return retriever, load_index(retriever, folder).images
    # An index that was saved by the pipeline itself: its images are named by their ids.
    load_as_built(retriever, open_index(folder))
    if folder.name == INDEX_FOLDER and (folder.parent / GALLERY_FILE).is_file():
        return retriever, read_gallery(folder.parent).images
    return retriever, {}


def run(args: argparse.Namespace) -> int:
    """Open the model and an index, talk until the person leaves, and return the exit status."""
    retriever, images = open_with_index(args)

    from .chat_session import ChatSession, converse

    is_typed = sys.stdin.isatty()
    if is_typed:
        # Importing it gives input() line editing and history; Windows has none.
        with contextlib.suppress(ImportError):
            importlib.import_module("readline")
    session = ChatSession(retriever, images, top_k=TOP_K, options={"coherent": args.coherent})
    # Nobody sees a prompt where lines come from a file or a pipe.
    converse(session, sys.stdout, input if is_typed else lambda prompt: input())
    return 0
