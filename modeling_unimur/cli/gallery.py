"""Images with titles, ranked answers, and the demo's index, which `unimur chat` and `unimur app` open again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.cache import cache_dir, folder_stamp
from .errors import CommandError

INDEX_FOLDER = "index"
GALLERY_FILE = "gallery.json"
# Hex digits of each half of a folder's name: enough that no two of a person's indexes meet.
KEY_LENGTH = 16


@dataclass(frozen=True)
class GalleryImage:
    """One image of the gallery or of a conversation, with what is known about it."""

    path: Path
    title: str
    source: str = ""
    license: str = ""
    author: str = ""


@dataclass(frozen=True)
class RankedReply:
    """A text answer and its score (cosine)."""

    text: str
    score: float


@dataclass(frozen=True)
class RankedImage:
    """An image answer and its score (cosine)."""

    image: GalleryImage
    score: float


@dataclass(frozen=True)
class Gallery:
    """What an index holds: its images by id, the number of replies, and what could not be added."""

    images: dict[str, GalleryImage]
    replies: int
    skipped: list[dict[str, str]]


def model_key(folder: Path) -> str:
    """A key that changes with the names, sizes and times of a model folder's files."""
    return folder_stamp(folder)[:KEY_LENGTH]


def newest_index(model: str) -> Path | None:
    """The index that was used last with the model of this key, or None."""
    folders = [
        path
        for path in (cache_dir() / "demo").glob(f"{model}-*")
        if (path / GALLERY_FILE).is_file() and (path / INDEX_FOLDER / "CURRENT").is_file()
    ]
    return max(folders, key=lambda path: (path / GALLERY_FILE).stat().st_mtime, default=None)


def load_index(retriever: Any, folder: Path) -> Gallery:
    """Load a saved index into the retriever and return its gallery. Raises CommandError, which says to delete it, if
    it cannot be read."""
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
    images = {
        image_id: GalleryImage(**{**fields, "path": Path(fields["path"])})
        for image_id, fields in record["pictures"].items()
    }
    return Gallery(images, record["replies"], record["skipped"])


def bar_fractions(scores: list[float]) -> list[float]:
    """Lengths of score bars, from 0 to 1: each score relative to the best one; scores at or below zero have no bar."""
    best = max(scores, default=0.0)
    return [max(0.0, min(1.0, score / best)) if best > 0 else 0.0 for score in scores]
