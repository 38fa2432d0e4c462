"""The demo's index: built once for a model and a list of items, kept in the cache while both are unchanged."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from modeling_unimur.cli.errors import CommandError
from modeling_unimur.cli.gallery import GALLERY_FILE, INDEX_FOLDER, KEY_LENGTH, Gallery, Picture, read_gallery
from modeling_unimur.data.cache import build_once, cache_dir
from modeling_unimur.data.source_folders import record_sources

# Of the index' files; indexes of another one are built again.
_LAYOUT = b"versions"


def items_key(pictures: Mapping[str, Picture], replies: Iterable[str]) -> str:
    """Hash of the items: ids, what is known of the images, their files' sizes and times, and the replies."""
    digest = hashlib.blake2b(_LAYOUT)
    for image_id, picture in pictures.items():
        # A link that leads nowhere is for the encoder to report.
        stat = picture.path.stat() if picture.path.exists() else None
        known = [image_id, str(picture.path), picture.title, picture.source, picture.license, picture.author]
        digest.update(json.dumps([*known, stat and stat.st_size, stat and stat.st_mtime_ns]).encode())
    digest.update(json.dumps(list(replies)).encode())
    return digest.hexdigest()[:KEY_LENGTH]


def index_folder(model: str, items: str) -> Path:
    """Where the index for a model's and an item list's keys lies."""
    return cache_dir() / "demo" / f"{model}-{items}"


def build_index(retriever: Any, folder: Path, pictures: Mapping[str, Picture], replies: list[str]) -> Gallery:
    """Encode the items into the retriever's index and save it with its gallery under `folder`.

    Raises:
        CommandError: if no image could be read.
    """

    def build(aside: Path) -> None:
        report = retriever.add(
            images=[str(picture.path) for picture in pictures.values()],
            image_ids=list(pictures),
            texts=replies,
            show_progress=True,
        )
        if not report["images"]:
            reason = f"; the first: {report['skipped'][0]['reason']}"
            raise CommandError(f"none of the {len(pictures):,} images could be read{reason}")
        skipped = [_skipped(item) for item in report["skipped"]]
        retriever.save_index(str(aside / INDEX_FOLDER))
        gone = {item["item"] for item in skipped}
        kept = {
            image_id: {**asdict(picture), "path": str(picture.path.absolute())}
            for image_id, picture in pictures.items()
            if image_id not in gone and str(picture.path) not in gone
        }
        record = {"pictures": kept, "replies": report["texts"], "skipped": skipped}
        (aside / GALLERY_FILE).write_text(json.dumps(record, indent=1), encoding="utf-8")

    build_once(folder, build)
    record_sources(folder / INDEX_FOLDER, {picture.path.absolute().parent for picture in pictures.values()})
    return read_gallery(folder)


def _skipped(item: Mapping[str, Any]) -> dict[str, str]:
    name, reason = str(item["item"]), str(item["reason"])
    # A reason often begins with the name that is printed before it anyway.
    return {"item": name, "reason": reason.removeprefix(f"{name}: ")}
