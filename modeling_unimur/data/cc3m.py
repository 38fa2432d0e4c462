"""Conceptual Captions 3M as people have it: the official TSV, FROMAGe's TSV, and what img2dataset writes.

Nothing is downloaded: every reader takes what lies on the disk and says what is missing.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from .text_lines import read_lines

# Rows of the two files that Google publishes (Sharma et al., ACL 2018; the test split is not public).
PUBLISHED_ROWS = {"train": 3_318_333, "validation": 15_840}

# Lines that are tried to find out where the images lie and how they are named.
_SAMPLE = 500
_SUFFIXES = ("", ".jpg", ".jpeg", ".png", ".webp", ".gif")
# Where downloaders and FROMAGe put the images, seen from the folder of the TSV.
_IMAGE_FOLDERS = (
    "images", "training", "validation", ".", "cc3m/training", "cc3m/validation",
    "../data/cc3m/training", "../data/cc3m/validation",
)  # fmt: skip


class CaptionedImage(NamedTuple):
    """One usable pair; `picture` is an address as in `data.picture_bytes`."""

    caption: str
    picture: str


class Skipped(NamedTuple):
    """One pair (or a whole archive) that cannot be used."""

    reason: str
    item: str


# File names without suffix that downloaders make of a line's number (from 0) and its URL. Files that are only numbered
# are not among them: nothing would show that an image stands beside another line's caption.
_NAMES: dict[str, Callable[[int, str], str]] = {
    "<line>_<CRC-32 of the URL>": lambda line, url: f"{line}_{zlib.crc32(url.encode())}",
    "<CRC-32 of the URL>": lambda line, url: str(zlib.crc32(url.encode())),
    "<MD5 of the URL>": lambda line, url: hashlib.md5(url.encode(), usedforsecurity=False).hexdigest(),
    "<SHA-256 of the URL>": lambda line, url: hashlib.sha256(url.encode()).hexdigest(),
}


def read_tsv(path: str | os.PathLike, pictures: str | os.PathLike | None = None) -> Iterator[CaptionedImage | Skipped]:
    """Pairs of a TSV file, in its order, one line in memory at a time.

    Args:
        path: either Google's file, `caption<TAB>url` without a header, whose images a downloader named by line and
            URL; or FROMAGe's, with the header `caption<TAB>image` and image names relative to the image folder.
        pictures: the folder with the images. Without one it is looked for beside the file: `images`, `training`,
            `validation`, the file's own folder, and where FROMAGe's defaults put it.

    Yields:
        each usable pair, or why a line gives none: `malformed line`, `no caption`, `picture is missing`.

    Raises:
        FileNotFoundError: no such file, or no folder that holds any of its first images; the message names the
            folders and the names that were tried.
        ValueError: the file is in neither form.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}: give the path of a TSV of captions.")
    if pictures is not None and not Path(pictures).is_dir():
        raise FileNotFoundError(f"There is no image folder {pictures} (for {path}).")
    first = next(read_lines(path, errors="replace"), "")
    fields = [_unquote(field).strip().lower() for field in first.split("\t")]
    if {"caption", "image"} <= set(fields):
        columns = fields.index("caption"), fields.index("image")
        return _read_named(path, columns, pictures)
    if len(fields) == 2 and fields[1].startswith(("http://", "https://")):
        return _read_official(path, pictures)
    raise ValueError(
        f"{path} begins with {first[:80]!r}: that is neither `caption<TAB>url` (Google's file, no header) nor the "
        "header `caption<TAB>image` (FROMAGe's)."
    )


def _lines(path: Path) -> Iterator[list[str]]:
    for line in read_lines(path, errors="replace"):
        yield line.split("\t")


def _unquote(field: str) -> str:
    # pandas quotes a field that holds a quotation mark, and doubles the marks in it; Google's file never does.
    inner = field[1:-1]
    if len(field) > 1 and field[0] == field[-1] == '"' and '"' not in inner.replace('""', ""):
        return inner.replace('""', '"')
    return field


def _read_named(path, columns, pictures) -> Iterator[CaptionedImage | Skipped]:
    caption_column, image_column = columns

    def name(fields: list[str]) -> str:
        return _unquote(fields[image_column]) if len(fields) > image_column else ""

    def found(folder: Path, fields: list[str]) -> bool:
        return bool(name(fields)) and os.path.isfile(os.path.join(folder, name(fields)))

    sample = list(itertools.islice(_lines(path), 1, _SAMPLE))
    folder = _best_folder(path, pictures, sample, found, "named in the column `image`")
    for number, fields in enumerate(itertools.islice(_lines(path), 1, None), start=2):
        if len(fields) <= max(columns) or not name(fields):
            yield Skipped("malformed line", f"{path}:{number}")
            continue
        caption, picture = " ".join(_unquote(fields[caption_column]).split()), os.path.join(folder, name(fields))
        yield _pair(caption, picture if os.path.isfile(picture) else None, picture, f"{path}:{number}")


def _read_official(path, pictures) -> Iterator[CaptionedImage | Skipped]:
    sample = list(enumerate(itertools.islice(_lines(path), _SAMPLE)))
    best: tuple[int, str] = (0, "")

    def find(folder: str, scheme: str, line: int, url: str) -> str | None:
        stem = os.path.join(folder, _NAMES[scheme](line, url))
        return next((stem + suffix for suffix in _SUFFIXES if os.path.isfile(stem + suffix)), None)

    def found(folder: Path, row: tuple[int, list[str]]) -> bool:
        line, fields = row
        return len(fields) == 2 and any(find(str(folder), scheme, line, fields[1]) for scheme in _NAMES)

    folder = str(_best_folder(path, pictures, sample, found, f"named {' or '.join(_NAMES)} with or without a suffix"))
    for scheme in _NAMES:
        hits = sum(len(row) == 2 and find(folder, scheme, line, row[1]) is not None for line, row in sample)
        best = max(best, (hits, scheme), key=lambda pair: pair[0])
    for line, fields in enumerate(_lines(path)):
        if len(fields) != 2:
            yield Skipped("malformed line", f"{path}:{line + 1}")
            continue
        url = fields[1].strip()
        yield _pair(" ".join(fields[0].split()), find(folder, best[1], line, url), url, f"{path}:{line + 1}")


def _pair(caption: str, picture: str | None, wanted: str, line: str) -> CaptionedImage | Skipped:
    if not caption:
        return Skipped("no caption", line)
    return Skipped("image is missing", wanted) if picture is None else CaptionedImage(caption, picture)


def _best_folder(path: Path, given, sample: list, found: Callable[[Path, object], bool], how: str) -> Path:
    """The folder that holds most of the first lines' images."""
    beside = [Path(os.path.normpath(path.parent / name)) for name in (*_IMAGE_FOLDERS, path.stem)]
    tried = [Path(given)] if given is not None else [folder for folder in beside if folder.is_dir()]
    hits = {folder: sum(found(folder, row) for row in sample) for folder in tried}
    folder = max(tried, key=hits.__getitem__, default=None)
    if folder is None or not hits[folder]:
        raise FileNotFoundError(
            f"None of the first {len(sample)} images of {path} was found, {how}, in "
            f"{', '.join(map(str, tried)) or 'any folder beside it'}. Name the folder: {path}::FOLDER."
        )
    return folder


__all__ = ["PUBLISHED_ROWS", "CaptionedImage", "Skipped", "read_tsv"]
