"""The demo's index: built once for a model and a list of items, kept in the cache while both are unchanged."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..data.packages import build_once, cache_dir
from ..data.source_folders import record_sources
from .demo_results import Picture
from .errors import CommandError

INDEX_FOLDER = "index"
GALLERY_FILE = "gallery.json"
# Hex digits of each half of a folder's name: enough that no two of a person's indexes meet.
KEY_LENGTH = 16
# Of the index' files; indexes of another one are built anew.
_LAYOUT = b"versions"


@dataclass(frozen=True)
class Gallery:
    """What an index holds: its pictures by id, the number of replies, and what could not be added."""

    pictures: dict[str, Picture]
    replies: int
    skipped: list[dict[str, str]]


def model_key(folder: Path) -> str:
    """Hash of the names and contents of a model folder's files."""
    digest = hashlib.blake2b()
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0".encode())
        with open(path, "rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()[:KEY_LENGTH]


def items_key(pictures: Mapping[str, Picture], replies: Iterable[str]) -> str:
    """Hash of the items: ids, what is known of the pictures, their files' sizes and times, and the replies."""
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


def newest_index(model: str) -> Path | None:
    """The index that was used last with the model of this key, or None."""
    folders = [
        path
        for path in (cache_dir() / "demo").glob(f"{model}-*")
        if (path / GALLERY_FILE).is_file() and (path / INDEX_FOLDER / "CURRENT").is_file()
    ]
    return max(folders, key=lambda path: (path / GALLERY_FILE).stat().st_mtime, default=None)


def build_index(retriever: Any, folder: Path, pictures: Mapping[str, Picture], replies: list[str]) -> Gallery:
    """Encode the items into the retriever's index and save it with its gallery under `folder`.

    Raises:
        CommandError: if not one picture could be read.
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
            raise CommandError(f"none of the {len(pictures):,} pictures could be read{reason}")
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


def load_index(retriever: Any, folder: Path) -> Gallery:
    """Load a saved index into the retriever and return its gallery.

    Raises:
        CommandError: if it cannot be read; the message says to delete it.
    """
    try:
        gallery = read_gallery(folder)
        retriever.load_index(str(folder / INDEX_FOLDER))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CommandError(f"the saved index in {folder} cannot be read ({error}); delete the folder") from error
    (folder / GALLERY_FILE).touch()
    return gallery


def read_gallery(folder: Path) -> Gallery:
    """The gallery that was saved beside an index."""
    record = json.loads((folder / GALLERY_FILE).read_text(encoding="utf-8"))
    pictures = {
        image_id: Picture(**{**fields, "path": Path(fields["path"])})
        for image_id, fields in record["pictures"].items()
    }
    return Gallery(pictures, record["replies"], record["skipped"])
