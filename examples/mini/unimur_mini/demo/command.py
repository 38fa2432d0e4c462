"""`unimur demo`: answers example dialogues with real images and short replies, using the public pipeline."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from modeling_unimur.cli.arguments import add_trust, positive_integer
from modeling_unimur.cli.errors import CommandError
from modeling_unimur.cli.gallery import (
    GALLERY_FILE,
    Gallery,
    GalleryImage,
    RankedImage,
    RankedReply,
    load_index,
    model_key,
)  # fmt: skip
from modeling_unimur.cli.main import library_versions
from modeling_unimur.cli.retriever import model_folder, open_retriever
from modeling_unimur.cli.terminal import DIM, Terminal

from .default_gallery import default_gallery, images_by_id
from .gallery_index import build_index, index_folder, items_key
from .inputs import EXAMPLE_DIALOGUES, EXAMPLE_NOTE, EXAMPLE_REPLIES, Dialogue, read_dialogues, read_replies
from .results import SOURCE_NAMES, AnsweredDialogue, DemoResults, count_sources

TOP_K = 4
MAX_IMAGES = 1600
SEED = 0
# Number of unreadable items that are named one by one. Further ones are only counted.
SHOWN_SKIPPED = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of this subcommand."""
    parser.add_argument("--model", metavar="FOLDER", help="model folder (default: the mini model of `make demo`)")
    add_trust(parser)
    parser.add_argument("--images", metavar="DIR", type=Path, help="search the images of this folder, recursively")
    parser.add_argument("--replies", metavar="FILE", type=Path, help="pool of text replies, one per line")
    parser.add_argument("--dialogues", metavar="FILE", type=Path, help="dialogues, one JSON object per line")
    parser.add_argument(
        "--output", metavar="DIR", type=Path, default=Path("demo_output"), help="where to write (default: %(default)s)"
    )
    parser.add_argument(
        "--max-images",
        metavar="N",
        type=positive_integer,
        default=MAX_IMAGES,
        help="gallery size (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=SEED, help="seed that chooses the images (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Runs the demo and returns the exit status."""
    started = time.monotonic()
    # All arguments and files of the user are checked before anything slow begins.
    own = _own_images(args)
    replies = read_replies(args.replies or EXAMPLE_REPLIES)
    dialogues = read_dialogues(args.dialogues or EXAMPLE_DIALOGUES)
    output = _output_folder(args.output)
    model = model_folder(args.model)

    gallery_images, context = _images(own, dialogues, args)
    folder = index_folder(model_key(model), items_key(gallery_images, replies))
    print(f"Loading the model {model.name} ...", flush=True)
    retriever = open_retriever(model, quiet=not args.debug, trust_remote_code=args.trust_remote_code)
    gallery = _fill(retriever, folder, gallery_images, replies)
    answered = answer(retriever, dialogues, gallery, context)
    note = "" if own or args.dialogues else EXAMPLE_NOTE
    _write(collect_results(model.name, answered, gallery, args.seed, note), output)
    print(f"Done in {time.monotonic() - started:.0f} s. Go on by hand: unimur chat")
    return 0


def _own_images(args: argparse.Namespace) -> dict[str, GalleryImage] | None:
    if args.images is None:
        return None
    from .image_folder import find_images  # imports Pillow

    images, found, others = find_images(args.images.expanduser(), args.max_images, args.seed)
    print(f"{found:,} images in {args.images}" + (f"; {others:,} other files passed over" if others else ""))
    if found > len(images):
        print(f"{len(images):,} of them are used, chosen at random (--max-images raises the number)")
    return images


def _output_folder(folder: Path) -> Path:
    folder = folder.expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".unimur"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise CommandError(f"cannot write to {folder}: {error.strerror}; name another folder with --output") from error
    return folder


def _images(
    own: dict[str, GalleryImage] | None, dialogues: list[Dialogue], args: argparse.Namespace
) -> tuple[dict[str, GalleryImage], dict[str, GalleryImage]]:
    print("Collecting images (the first time this fetches the collections) ...", flush=True)
    image_ids = sorted({image_id for dialogue in dialogues for image_id in dialogue.image_ids()})
    context = images_by_id(image_ids)
    if own is not None:
        return own, context
    gallery = default_gallery(args.max_images, args.seed, context)
    counts = sorted(count_sources(list(gallery.values())).items())
    parts = [f"{number:,} {SOURCE_NAMES.get(source, source)}" for (source, _), number in counts]
    print(f"Gallery: {len(gallery):,} images ({', '.join(parts)})")
    return gallery, context


def _fill(retriever: Any, folder: Path, images: dict[str, GalleryImage], replies: list[str]) -> Gallery:
    if (folder / GALLERY_FILE).is_file():
        gallery = load_index(retriever, folder)
        print(f"Index re-used: {folder}")
    else:
        print(f"Encoding {len(images):,} images and {len(replies):,} replies ...", flush=True)
        gallery = build_index(retriever, folder, images, replies)
        print(f"Index saved: {folder}")
    if gallery.skipped:
        print(f"{len(gallery.skipped):,} items could not be read and were left out:")
        for item in gallery.skipped[:SHOWN_SKIPPED]:
            print(f"  {item['item']}: {item['reason']}")
        if len(gallery.skipped) > SHOWN_SKIPPED:
            print(f"  and {len(gallery.skipped) - SHOWN_SKIPPED:,} more")
    return gallery


def answer(
    retriever: Any, dialogues: list[Dialogue], gallery: Gallery, context: dict[str, GalleryImage]
) -> tuple[AnsweredDialogue, ...]:
    """Retrieves the next turn of each dialogue.

    The retriever's index holds the gallery and the replies. `context` holds the images inside the dialogues by id.
    """
    resolved = [dialogue.resolved(context) for dialogue in dialogues]
    found = retriever([messages for _, messages in resolved], top_k=TOP_K, coherent=True)
    return tuple(
        AnsweredDialogue(
            dialogue.title,
            turns,
            tuple(RankedReply(item["text"], float(item["score"])) for item in result["text"]),
            tuple(RankedImage(gallery.images[item["id"]], float(item["score"])) for item in result["image"]),
        )
        for dialogue, (turns, _), result in zip(dialogues, resolved, found, strict=True)
    )


def collect_results(
    model: str, dialogues: tuple[AnsweredDialogue, ...], gallery: Gallery, seed: int, note: str = ""
) -> DemoResults:
    """Collects everything that the page and the sheet show, including the versions of the libraries."""
    shown = {
        part.path: part
        for dialogue in dialogues
        for turn in dialogue.turns
        for part in turn.parts
        if isinstance(part, GalleryImage)
    }
    # Images inside the conversations are credited too.
    counted = {**{image.path: image for image in gallery.images.values()}, **shown}
    return DemoResults(
        model=model,
        dialogues=dialogues,
        gallery_size=len(gallery.images),
        pool_size=gallery.replies,
        seed=seed,
        versions=library_versions(),
        source_counts=count_sources(list(counted.values())),
        note=note,
    )


def _caption(image: GalleryImage) -> str:
    """Returns the title and the source of an image."""
    return image.title + (f"  ({SOURCE_NAMES.get(image.source, image.source)})" if image.source else "")


def _write(results: DemoResults, output: Path) -> None:
    from .contact_sheet import write_contact_sheet
    from .page import write_page

    terminal = Terminal(sys.stdout)
    for number, dialogue in enumerate(results.dialogues, start=1):
        terminal.heading(f"{number}. {dialogue.title}")
        for turn in dialogue.turns:
            parts = [f"[image: {part.title}]" if isinstance(part, GalleryImage) else part for part in turn.parts]
            terminal.wrapped(" ".join(parts), turn.role)
        terminal.write("  Replies", DIM)
        terminal.replies(dialogue.replies)
        terminal.write("  Images", DIM)
        terminal.images(dialogue.images, captions=_caption)
    terminal.heading("Written")
    print(f"  {write_page(results, output)}")
    print(f"  {write_contact_sheet(results, output)}")
