"""PhotoChat (Zang et al., ACL 2021): dialogues in which one photo is shared."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from .dialog_schema import Dialog, ReadReport, Turn
from .json_stream import read_json_records

# Table 2 of the paper.
PUBLISHED = {"train": 10_286, "dev": 1_000, "test": 1_000}
_SUFFIXES = (".jpg", ".jpeg", ".png")
_FOLDERS = ("images/{}", "images", "photos", "{}/images", ".")


@dataclass(frozen=True)
class PhotoDialog:
    """One dialogue.

    Args:
        dialog_id: of the dialogue.
        turns: `(speaker, words)`; the turn that shares the photo has no words.
        shared: number of that turn.
        photo_id, photo_url, description: of the photo; the description names the objects in it.
        picture: its file, or None where it is missing.
    """

    dialog_id: str
    turns: tuple[tuple[str, str], ...]
    shared: int
    photo_id: str
    photo_url: str
    description: str
    picture: Path | None

    def dialog(self) -> Dialog:
        """In the schema of all sets."""
        turns = []
        for number, (speaker, words) in enumerate(self.turns):
            elements = (("text", words),) if words else ()
            turns.append(Turn(speaker, elements + ((("image", self.photo_id),) if number == self.shared else ())))
        return Dialog(self.dialog_id, tuple(turn for turn in turns if turn.elements))


class PhotoChat:
    """One split.

    Args:
        folder: with the split's folder of JSON files, as google-research/multimodalchat/photochat has it, and the
            photos in `images`, named by their Open Images id or as in their URL.
        split: `train`, `dev` or `test`.
        limit: read only so many dialogues.

    Attributes:
        report (`ReadReport`): of the last whole iteration.
        files (`list[Path]`): what is read.

    Raises:
        FileNotFoundError: no such folder: the message names the places where it was looked for.
        ValueError: an unknown split.
    """

    def __init__(self, folder: str | os.PathLike, split: str = "test", limit: int | None = None) -> None:
        if split not in PUBLISHED:
            raise ValueError(f"PhotoChat has no split {split!r}: choose from {', '.join(PUBLISHED)}.")
        self.folder, self.split, self.limit = Path(folder).expanduser(), split, limit
        places = [self.folder / split, self.folder / "photochat" / split]
        self.files = next((found for place in places if (found := sorted(place.glob("*.json")))), [])
        if not self.files:
            raise FileNotFoundError(
                f"PhotoChat's split {split} is not there; looked for JSON files in {', '.join(map(str, places))}. It "
                "comes from github.com/google-research/google-research (multimodalchat/photochat)."
            )
        self._folders = [self.folder / pattern.format(split) for pattern in _FOLDERS]
        self.report = self._new_report()

    def _new_report(self) -> ReadReport:
        return ReadReport(str(self.folder), {} if self.limit else {"dialogues": PUBLISHED[self.split]})

    def _picture(self, photo_id: str, url: str) -> Path | None:
        stems = dict.fromkeys((photo_id, photo_id.rpartition("/")[2]))
        names = [f"{stem}{suffix}" for stem in stems if stem for suffix in _SUFFIXES]
        names.append(urlsplit(url).path.rpartition("/")[2])
        places = (folder / name for folder in self._folders for name in names if name)
        return next((place for place in places if place.is_file()), None)

    def __iter__(self) -> Iterator[PhotoDialog]:
        report = self._new_report()
        for path in self.files:
            for record in read_json_records(path):
                if self.limit is not None and report.found["dialogues"] >= self.limit:
                    break
                try:
                    dialog = self._dialog(record)
                except (KeyError, TypeError, ValueError) as error:
                    report.lose(f"malformed dialogue ({error})", f"{path.name}: {record.get('dialogue_id')}")
                    continue
                report.found["dialogues"] += 1
                if dialog.picture is None:
                    report.lose("image is missing", dialog.photo_id or dialog.photo_url)
                else:
                    report.found["pictures"] += 1
                yield dialog
        self.report = report

    def _dialog(self, record: dict) -> PhotoDialog:
        turns = tuple((str(turn["user_id"]), str(turn["message"]).strip()) for turn in record["dialogue"])
        shared = [number for number, turn in enumerate(record["dialogue"]) if turn["share_photo"]]
        if len(shared) != 1:
            raise ValueError(f"{len(shared)} turns share a photo")
        url = record["photo_url"]
        photo_id = str(record.get("photo_id") or urlsplit(url).path.rpartition("/")[2].rpartition(".")[0])
        description = record.get("photo_description", "")
        picture = self._picture(photo_id, url)
        return PhotoDialog(str(record["dialogue_id"]), turns, shared[0], photo_id, url, description, picture)


__all__ = ["PUBLISHED", "PhotoChat", "PhotoDialog"]
