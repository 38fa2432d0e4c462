"""`unimur app`: the chat of hub_cards/space in the browser, on a model and an index of this computer."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from ..data.source_folders import source_folders
from ..index.base import local_path
from ..releasing.hub_cards import hub_cards
from . import chat
from .gallery import INDEX_FOLDER

SPACE = hub_cards("space") / "app.py"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this sub-command's arguments."""
    chat.add_arguments(parser)
    parser.add_argument("--port", type=int, default=7860, help="port of the page (default: %(default)s)")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; 0.0.0.0 accepts other machines (default: %(default)s)",
    )
    parser.add_argument(
        "--allow-folder", action="append", default=[], metavar="DIR",
        help="folder whose images the page may show, besides the folders that "
        "this index was built from on this computer; may be repeated",
    )  # fmt: skip
    parser.add_argument("--no-browser", action="store_true", help="print the address without opening a browser")


def space() -> ModuleType:
    """The module of the page. Raises ImportError where Gradio is not installed."""
    if importlib.util.find_spec("gradio") is None:
        raise ImportError("The page needs Gradio: `pip install unimur[app]`.")
    sys.path.insert(0, str(SPACE.parent))  # where its own imports are
    spec = importlib.util.spec_from_file_location("unimur_space", SPACE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def images_of(retriever: Any) -> dict[str, tuple[str, str]]:
    """Path and title of every image in an index without a gallery file."""
    count = retriever.index.count("image")
    if not count:
        return {}
    hits = retriever("an image", top_k=count, modality="image", image_threshold=-1.0)["image"]
    paths = {hit["id"]: hit["image"] if isinstance(hit["image"], str) else hit["id"] for hit in hits}
    return {key: (path, Path(path).stem.replace("_", " ")) for key, path in sorted(paths.items())}


def shown_images(
    images: Mapping[str, tuple[str, str]], folders: Iterable[str | os.PathLike]
) -> dict[str, tuple[str, str]]:
    """Filters an index's images (path and title by id) to those below the folders that the owner of the computer has
    named: an index may name any file."""
    from ..data.image_files import AllowedImages  # and Pillow

    allowed = AllowedImages(folders)
    found = ((key, allowed.find(path), title) for key, (path, title) in images.items())
    return {key: (str(path), title) for key, path, title in found if path is not None}


def run(args: argparse.Namespace) -> int:
    """Open the model and an index, and serve the page until Ctrl-C."""
    page = space()
    retriever, known = chat.open_with_index(args)
    images = {key: (str(image.path), image.title) for key, image in known.items()} or images_of(retriever)
    place = local_path(args.index) or args.index
    built_from = [*source_folders(place), *source_folders(os.path.join(place, INDEX_FOLDER))]
    shown = shown_images(images, [*args.allow_folder, *built_from])
    if len(shown) < len(images):
        print(
            f"{len(images) - len(shown):,} of {len(images):,} images of the index are not shown: they are gone, "
            "are no images, or lie in other folders than the index was built from (see --allow-folder).",
            flush=True,
        )
    page.launch(
        retriever, shown, server_name=args.host, server_port=args.port, inbrowser=not args.no_browser, quiet=False
    )
    return 0
