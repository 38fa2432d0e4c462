"""The index of the demo: it is built once for a model and a list of items, and kept in the cache."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from modeling_unimur.cli.errors import CommandError
from modeling_unimur.cli.gallery import GALLERY_FILE, INDEX_FOLDER, KEY_LENGTH, Gallery, GalleryImage, read_gallery
from modeling_unimur.data.cache import build_once, cache_dir
from modeling_unimur.data.source_folders import record_sources

# Layout of the files of an index. Indexes with another layout are rebuilt.
_LAYOUT = b"versions"


def items_key(images: Mapping[str, GalleryImage], replies: Iterable[str]) -> str:
    """Returns a hash of the replies, and of the ids, metadata, file sizes and file times of the images."""
    digest = hashlib.blake2b(_LAYOUT)
    for image_id, image in images.items():
        # The encoder reports broken links.
        stat = image.path.stat() if image.path.exists() else None
        known = [image_id, str(image.path), image.title, image.source, image.license, image.author]
        digest.update(json.dumps([*known, stat and stat.st_size, stat and stat.st_mtime_ns]).encode())
    digest.update(json.dumps(list(replies)).encode())
    return digest.hexdigest()[:KEY_LENGTH]


def index_folder(model: str, items: str) -> Path:
    """Returns the folder of the index for the key of a model and the key of a list of items."""
    return cache_dir() / "demo" / f"{model}-{items}"


def build_index(retriever: Any, folder: Path, images: Mapping[str, GalleryImage], replies: list[str]) -> Gallery:
    """Encodes the items into the retriever's index, and saves it with its gallery under `folder`.

    Raises:
        CommandError: if no image could be read.
    """

    def build(aside: Path) -> None:
        report = retriever.add(
            images=[str(image.path) for image in images.values()],
            image_ids=list(images),
            texts=replies,
            show_progress=True,
        )
        if not report["images"]:
            reason = f"; the first: {report['skipped'][0]['reason']}"
            raise CommandError(f"none of the {len(images):,} images could be read{reason}")
        skipped = [_skipped(item) for item in report["skipped"]]
        retriever.save_index(str(aside / INDEX_FOLDER))
        gone = {item["item"] for item in skipped}
        kept = {
            image_id: {**asdict(image), "path": str(image.path.absolute())}
            for image_id, image in images.items()
            if image_id not in gone and str(image.path) not in gone
        }
        record = {"pictures": kept, "replies": report["texts"], "skipped": skipped}
        (aside / GALLERY_FILE).write_text(json.dumps(record, indent=1), encoding="utf-8")

    build_once(folder, build)
    record_sources(folder / INDEX_FOLDER, {image.path.absolute().parent for image in images.values()})
    return read_gallery(folder)


def _skipped(item: Mapping[str, Any]) -> dict[str, str]:
    name, reason = str(item["item"]), str(item["reason"])
    # The reason often begins with the name, which is printed before it anyway.
    return {"item": name, "reason": reason.removeprefix(f"{name}: ")}
