"""PhotoChat (Zang et al., ACL 2021): dialogues in which one photo is shared."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from .dialog_schema import PublishedSet, ReadReport
from .json_lines import read_json_records

# Table 2 of the paper.
PUBLISHED = {"train": {"dialogues": 10_286}, "dev": {"dialogues": 1_000}, "test": {"dialogues": 1_000}}
_SUFFIXES = (".jpg", ".jpeg", ".png")
_FOLDERS = ("images/{}", "images", "photos", "{}/images", ".")


@dataclass(frozen=True)
class PhotoDialog:
    """One dialogue.

    Args:
        turns: `(speaker, words)`; turn number `shared`, which shares the photo, has no words.
        description: names the objects in the photo.
        image: the photo's file, or None where it is missing.
    """

    dialog_id: str
    turns: tuple[tuple[str, str], ...]
    shared: int
    photo_id: str
    photo_url: str
    description: str
    image: Path | None


class PhotoChat(PublishedSet):
    """Dialogues of one split (`train`, `dev` or `test`).

    Args:
        folder: with the split's folder of JSON files, as google-research/multimodalchat/photochat has it, and the
            photos in `images`, named by their Open Images id or as in their URL.

    Raises:
        FileNotFoundError: no such folder: the message names the places where it was looked for.
        ValueError: an unknown split.
    """

    title = "PhotoChat"
    origin = "It comes from github.com/google-research/google-research (multimodalchat/photochat)."
    published = PUBLISHED

    def __init__(self, folder: str | os.PathLike, split: str = "test", limit: int | None = None) -> None:
        super().__init__(folder, split, limit)
        places = [self.folder / split, self.folder / "photochat" / split]
        self.files = next((found for place in places if (found := sorted(place.glob("*.json")))), [])
        if not self.files:
            self.first_there(place / "*.json" for place in places)
        self._folders = [self.folder / pattern.format(split) for pattern in _FOLDERS]

    def _image(self, photo_id: str, url: str) -> Path | None:
        stems = dict.fromkeys((photo_id, photo_id.rpartition("/")[2]))
        names = [f"{stem}{suffix}" for stem in stems if stem for suffix in _SUFFIXES]
        names.append(urlsplit(url).path.rpartition("/")[2])
        places = (folder / name for folder in self._folders for name in names if name)
        return next((place for place in places if place.is_file()), None)

    def records(self, report: ReadReport) -> Iterator[tuple[str, Callable[[], PhotoDialog]]]:
        """Yield the dialogues of all files by file and id."""
        for path in self.files:
            for record in read_json_records(path):
                yield f"{path.name}: {record.get('dialogue_id')}", partial(self._dialog, record)

    def images_of(self, item: PhotoDialog) -> Iterable[tuple[str, bool]]:
        """Return the photo."""
        return [(item.photo_id or item.photo_url, item.image is not None)]

    def _dialog(self, record: dict) -> PhotoDialog:
        turns = tuple((str(turn["user_id"]), str(turn["message"]).strip()) for turn in record["dialogue"])
        shared = [number for number, turn in enumerate(record["dialogue"]) if turn["share_photo"]]
        if len(shared) != 1:
            raise ValueError(f"{len(shared)} turns share a photo")
        url = record["photo_url"]
        photo_id = str(record.get("photo_id") or urlsplit(url).path.rpartition("/")[2].rpartition(".")[0])
        description = record.get("photo_description", "")
        image = self._image(photo_id, url)
        return PhotoDialog(str(record["dialogue_id"]), turns, shared[0], photo_id, url, description, image)
