"""Pictures in folders and in webdataset archives."""

from __future__ import annotations

import errno
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

from ..data.cc3m import Skipped
from ..data.img2dataset import Sample, read_samples
from ..data.json_lines import parse_json
from ..data.picture_bytes import FileStamps
from ..data.picture_files import CAMERA_RAW, printable, walk_pictures
from .items import BadItem, Item, make_item, plain_fields

# More of a text file beside an image is no caption, and no payload.
_CAPTION_CHARACTERS = 4096
ARCHIVES_AND_TABLES = {".tar", ".parquet"}


def folder_items(folder: Path) -> Iterator[Item | BadItem]:
    """Pictures below a folder. The id is the path below it; the payload names the file, `{"image": path}`, and has as
    `caption` what stands in a text file of the image's name (`a.txt` beside `a.png`)."""
    folder, stamps = folder.absolute(), FileStamps()
    failed: list[OSError] = []
    for path, is_picture in walk_pictures(folder, failed.append):
        name, suffix = printable(path.relative_to(folder).as_posix()), path.suffix.lower()
        if suffix in CAMERA_RAW:
            yield BadItem(name, "a camera's raw image is not read; export it to JPEG")
        elif is_picture:
            yield _file_item(path, name, stamps)
        elif suffix in ARCHIVES_AND_TABLES and path.parent != folder:
            yield BadItem(name, "an archive or a table is read at the top of a folder only; name it as a source")
    for error in failed:
        below = Path(os.fsdecode(error.filename))
        name = printable(below.relative_to(folder).as_posix() if below.is_relative_to(folder) else str(below))
        hides = "" if name == "." else f"{name}/"
        yield BadItem(name, f"the folder cannot be listed: {error.strerror}", hides)


def _file_item(path: Path, name: str, stamps: FileStamps) -> Item | BadItem:
    try:
        stamp = stamps.stamp(os.fspath(path))
    except OSError as error:
        return unread_file(name, error)
    fields = {"image": printable(str(path))}
    if caption := _caption_beside(path):
        fields["caption"] = caption
    return make_item("image", name, os.fspath(path), fields, stamp)


def unread_file(name: str, error: OSError, named: bool = False) -> BadItem:
    """An item whose file cannot be looked at. It hides an item where the file may be there all the same, as on a disk
    that fails."""
    is_gone = error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EINVAL)
    reason = f"{error.strerror or type(error).__name__}: {printable(str(error.filename or name))}"
    return BadItem(name, reason, None if is_gone else ("" if named else name))


def _caption_beside(picture: Path) -> str:
    words = picture.with_suffix(".txt")
    try:
        if not words.is_file():  # a pipe would never end
            return ""
        with open(words, encoding="utf-8-sig", errors="replace") as file:
            return file.read(_CAPTION_CHARACTERS).strip()
    except OSError:
        return ""


def archive_items(archives: list[str], name_of: Callable[[str], str] = os.path.basename) -> Iterator[Item | BadItem]:
    """Pictures of webdataset archives. The id is `archive.tar/name`; the payload has the image's address, the
    caption (`.txt`, or `caption` in `.json`) and the fields of `.json`. A sample of a text alone is a text.

    Args:
        archives: their paths.
        name_of: what ids call each.
    """
    stamps = FileStamps()
    for archive in archives:
        called = printable(name_of(archive))
        try:
            stamps.stamp(archive)
        except OSError as error:
            bad = unread_file(f"{called}/", error)
            reason = bad.reason if bad.hides else f"archive is missing: {bad.reason}"
            yield bad._replace(item=printable(archive), reason=reason)
            continue
        for sample in read_samples([archive]):
            if isinstance(sample, Skipped):
                yield BadItem(printable(archive), printable(f"{sample.reason}: {sample.item}"), f"{called}/")
                continue
            name = f"{called}/{printable(sample.name)}"
            try:
                yield from _sample_items(sample, name, stamps)
            except (OSError, ValueError, tarfile.TarError) as error:
                yield BadItem(name, f"its members cannot be read: {printable(str(error))}", name)


def _sample_items(sample: Sample, name: str, stamps: FileStamps) -> Iterator[Item | BadItem]:
    fields = {}
    if "json" in sample.members:
        try:
            record = parse_json(sample.bytes("json"))
            fields = plain_fields(record, "image", "text") if isinstance(record, dict) else {}
        except ValueError as error:
            yield BadItem(name, f"its .json is left out: {error}")
    address, caption = sample.picture(), sample.caption()
    if caption:
        fields["caption"] = caption
    if address is not None:
        yield make_item("image", name, address, {"image": printable(address), **fields}, stamps.stamp(address))
    elif caption:
        yield make_item("text", name, caption, {"text": caption, **fields})
    else:
        yield BadItem(name, "neither an image nor a text")


__all__ = ["ARCHIVES_AND_TABLES", "archive_items", "folder_items", "unread_file"]
