"""The pictures of a person's own folder."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from .demo_results import Picture
from .errors import CommandError

# Containers that Pillow opens by extension but that hold documents, films or measurements.
NOT_PICTURES = {"BUFR", "EPS", "FITS", "GRIB", "HDF5", "MPEG", "PDF", "WMF"}
# Pictures that Pillow may be unable to open: they are tried, and reported when they fail, not passed over in silence.
TRIED_ANYWAY = {".avif", ".heic", ".heif", ".jxl", ".svg"}


@dataclass(frozen=True)
class FolderPictures:
    """Pictures of a folder by id (their path below it), how many other files lie there, and how many were found."""

    pictures: dict[str, Picture]
    other_files: int
    found: int


def picture_suffixes() -> set[str]:
    """Lower-case file name endings of the formats that this Pillow reads, and of a few more picture formats."""
    readable = {
        suffix
        for suffix, kind in Image.registered_extensions().items()
        if kind in Image.OPEN and kind not in NOT_PICTURES
    }
    return readable | TRIED_ANYWAY


def find_pictures(folder: Path, max_images: int, seed: int) -> FolderPictures:
    """All pictures below a folder, sorted by path; more than `max_images` are thinned out at random by `seed`.

    Hidden files and folders are left out; links to folders are followed once.

    Raises:
        CommandError: if the folder is missing, is a file, cannot be listed or holds no picture.
    """
    if not folder.exists():
        raise CommandError(f"no folder at {folder}")
    if not folder.is_dir():
        raise CommandError(f"{folder} is a file; --images takes a folder")

    def fail(error: OSError) -> None:
        if Path(error.filename or "") == folder:
            raise CommandError(f"cannot list {folder}: {error.strerror}")

    suffixes = picture_suffixes()
    paths, others, seen = [], 0, set()
    for root, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            if name.startswith("."):
                continue
            if Path(name).suffix.lower() in suffixes:
                paths.append(Path(root, name))
            else:
                others += 1
    if not paths:
        raise CommandError(f"{folder} holds no picture ({others} other files); name a folder with pictures")
    found = len(paths)
    if found > max_images:
        paths = random.Random(seed).sample(sorted(paths), max_images)
    pictures = {
        _printable(path.relative_to(folder).as_posix()): Picture(path, _printable(path.stem), "own")
        for path in sorted(paths)
    }
    return FolderPictures(pictures, others, found)


def _printable(name: str) -> str:
    # A file name may hold bytes that are no UTF-8; they have no place in a page or an index.
    return name.encode("utf-8", errors="backslashreplace").decode()
