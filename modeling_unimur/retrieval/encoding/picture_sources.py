"""Pictures in folders and in webdataset archives."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ...data.cc3m import Skipped
from ...data.img2dataset import read_samples
from ...data.json_lines import parse_json
from ...data.picture_bytes import FileStamps
from ...data.picture_files import printable, walk_pictures
from .items import BadItem, Item, make_item, plain_fields

# More of a text file beside a picture is no caption, and no payload.
_CAPTION_CHARACTERS = 4096


def folder_items(folder: Path) -> Iterator[Item | BadItem]:
    """Pictures below a folder. The id is the path below it; the payload names the file, `{"image": path}`, and has as
    `caption` what stands in a text file of the picture's name (`a.txt` beside `a.png`)."""
    folder, stamps = folder.absolute(), FileStamps()
    failed: list[OSError] = []
    for path, is_picture in walk_pictures(folder, failed.append):
        if not is_picture:
            continue
        name = printable(path.relative_to(folder).as_posix())
        try:
            stamp = stamps.stamp(os.fspath(path))
        except OSError as error:  # a link that leads nowhere
            yield BadItem(name, f"{printable(str(path))}: {error.strerror or error}")
            continue
        fields = {"image": printable(str(path))}
        if caption := _caption_beside(path):
            fields["caption"] = caption
        yield make_item("image", name, os.fspath(path), fields, stamp)
    for error in failed:
        yield BadItem(printable(str(error.filename)), f"the folder cannot be listed: {error.strerror}")


def _caption_beside(picture: Path) -> str:
    try:
        with open(picture.with_suffix(".txt"), encoding="utf-8-sig", errors="replace") as file:
            return file.read(_CAPTION_CHARACTERS).strip()
    except OSError:
        return ""


def archive_items(archives: list[str]) -> Iterator[Item | BadItem]:
    """Pictures of webdataset archives. The id is `archive.tar/name`; the payload has the picture's address, the
    caption (`.txt`, or `caption` in `.json`) and the fields of `.json`. A sample of a text alone is a text."""
    stamps = FileStamps()
    for sample in read_samples(archives):
        if isinstance(sample, Skipped):
            yield BadItem(sample.item, sample.reason)
            continue
        name = f"{Path(sample.archive).name}/{printable(sample.name)}"
        fields = {}
        if "json" in sample.members:
            try:
                record = parse_json(sample.bytes("json"))
                fields = plain_fields(record, "image", "text") if isinstance(record, dict) else {}
            except ValueError:
                yield BadItem(name, "its .json is no JSON: its fields are left out")
        address, caption = sample.picture(), sample.caption()
        if caption:
            fields["caption"] = caption
        if address is not None:
            yield make_item("image", name, address, {"image": address, **fields}, stamps.stamp(address))
        elif caption:
            yield make_item("text", name, caption, {"text": caption, **fields})
        else:
            yield BadItem(name, "neither a picture nor a text")


__all__ = ["archive_items", "folder_items"]
