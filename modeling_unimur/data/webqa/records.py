"""What every layout of WebQA is read into."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Document:
    """A text, or an image with its caption; `image` is an address of `data.picture_bytes`, "" for texts.

    The same id may come several times: the last one counts.
    """

    doc_id: str
    kind: str
    text: str
    image: str = ""
    title: str = ""


@dataclass(frozen=True)
class Question:
    """A question of one split; ids of what answers it, and of what was shown beside that and does not."""

    query_id: str
    text: str
    split: str
    positives: tuple[str, ...]
    image_negatives: tuple[str, ...] = field(default=())
    text_negatives: tuple[str, ...] = field(default=())
    kind: str = ""


class Source:
    """The files of a folder, or of a zip archive (read where they lie)."""

    def __init__(self, path: Path):
        self.path = path
        self._archive: dict[str, str] = {}
        if not path.is_dir():
            if not zipfile.is_zipfile(path):
                raise FileNotFoundError(f"{path} is neither a folder nor a zip archive.")
            with zipfile.ZipFile(path) as archive:
                # Whatever folder they are in there; copies that macOS adds are none.
                self._archive = {
                    name.rpartition("/")[2]: name for name in archive.namelist() if "__MACOSX" not in name
                }

    @property
    def folder(self) -> Path:
        """Where files that are in no archive lie."""
        return self.path if self.path.is_dir() else self.path.parent

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        return name in self._archive if self._archive else (self.path / name).is_file()

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """The bytes of a file.

        Raises:
            FileNotFoundError: no such file.
        """
        if not self.has(name):
            raise FileNotFoundError(f"{self.path} contains no {name}.")
        if self._archive:
            with zipfile.ZipFile(self.path) as archive, archive.open(self._archive[name]) as file:
                yield file
        else:
            with (self.path / name).open("rb") as file:
                yield file


def clean(text: str) -> str:
    """Text without spaces, quotation marks and carriage returns around it (UniVL-DR's `process_data.py`)."""
    return text.strip().strip('"').replace("\r", "").strip()


def kind_of(images: tuple[str, ...] | list[str], texts: tuple[str, ...] | list[str]) -> str:
    """What answers a question: "image", "text", both as "image+text", or ""."""
    return "+".join(kind for kind, found in (("image", images), ("text", texts)) if found)


__all__ = ["SPLITS", "Document", "Question", "Source", "clean", "kind_of"]
