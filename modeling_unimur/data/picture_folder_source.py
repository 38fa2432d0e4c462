"""A person's own folder of images as captioned images: `captions.tsv`, or the images' names as titles."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from datasets import Dataset

from .picture_files import decoded_suffixes, walk_pictures
from .picture_table import PictureRow, picture_dataset
from .text_lines import read_lines

logger = logging.getLogger(__name__)

CAPTIONS_FILE = "captions.tsv"


def load_picture_folder(folder: str) -> Dataset:
    """Reads `captions.tsv` of a folder, `file<TAB>caption` a line with or without that header, files relative to the
    folder; a file may stand on several lines. Without `captions.tsv` every image below the folder has its name as
    its title, with spaces for `_` and `-`.

    Lines that cannot be used are skipped, counted and reported in the log. Whether a file is an image shows when it
    is decoded.

    Args:
        folder: a path; `~` is filled in.

    Returns:
        `image_id, image, title, description, tags, source, license, author`, as all sources give them.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: it holds no captioned image.
    """
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise FileNotFoundError(f"There is no image folder {path}: write folder=PATH with the path of a folder.")
    path, skipped = path.absolute(), Counter()
    captions = path / CAPTIONS_FILE
    named = _captioned(captions, skipped) if captions.is_file() else _titled(path, skipped)
    rows, numbers = [], Counter()
    for file, title in named:
        name = file.relative_to(path).as_posix() if file.is_relative_to(path) else str(file)
        numbers[name] += 1
        repeat = f"#{numbers[name]}" if numbers[name] > 1 else ""
        rows.append(
            PictureRow(
                image_id=f"{path.name}/{name}{repeat}",
                image=str(file),
                title=title,
                description="",
                tags=[],
                source=path.name,
                license="",
                author="",
            )
        )
    if skipped:
        reasons = ", ".join(f"{count} x {reason}" for reason, count in sorted(skipped.items()))
        logger.warning("%s: skipped %s", captions if captions.is_file() else path, reasons)
    if not rows:
        raise ValueError(f"{path} contains no captioned image: add images, and {CAPTIONS_FILE} for captions.")
    return picture_dataset(rows)


def _captioned(captions: Path, skipped: Counter) -> Iterator[tuple[Path, str]]:
    for number, line in enumerate(read_lines(captions, errors="replace")):
        fields = [field.strip() for field in line.split("\t")]
        if fields == [""] or (number == 0 and fields == ["file", "caption"]):
            continue
        if len(fields) != 2:
            skipped["line that is not file<TAB>caption"] += 1
        elif not fields[1]:
            skipped["no caption"] += 1
        elif not fields[0] or not (captions.parent / fields[0]).is_file():
            skipped["file is missing"] += 1
        else:
            yield captions.parent / fields[0], " ".join(fields[1].split())


def _titled(folder: Path, skipped: Counter) -> Iterator[tuple[Path, str]]:
    decoded = decoded_suffixes()
    found = walk_pictures(folder, lambda error: skipped.update(["folder that cannot be listed"]))
    for file in sorted(path for path, is_picture in found if is_picture):
        if file.suffix.lower() not in decoded:
            skipped[f"{file.suffix.lower()}, which is not decoded here"] += 1
        elif not file.is_file():
            skipped["file that is missing or not a regular one"] += 1
        else:
            title = " ".join(file.stem.replace("_", " ").replace("-", " ").split())
            # File names may hold bytes that are no UTF-8; a table may not.
            yield file, title.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


__all__ = ["CAPTIONS_FILE", "load_picture_folder"]
