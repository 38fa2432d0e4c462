"""Which reader a source is for."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from ..data.image_files import walk_images
from ..data.img2dataset import expand_pattern
from ..data.registry import SOURCES, names_a_set
from ..memory_index import checked_id
from .items import BadItem, Item
from .readers import ARCHIVES_AND_TABLES, archive_items, folder_items, line_items, set_items, table_items

_READERS: dict[tuple[str, ...], Callable[..., Iterator[Item | BadItem]]] = {
    (".tar",): archive_items,
    (".parquet",): table_items,
    (".jsonl", ".ndjson", ".txt"): line_items,
}
_TAKES = (
    "a folder of images, parquet tables (.parquet), webdataset archives (.tar), lines (.jsonl, .txt), or a "
    f"retrieval set ({', '.join(SOURCES)})"
)


class Reading(NamedTuple):
    """How a source is read; decided when it is first listed, and kept.

    Args:
        prefix: stands before the ids that a source does not give itself, with a slash; empty for an index' first.
        lines: whether the lines at the top of a folder are texts: there was nothing else to read in it.
        relative: whether ids name a file by its path below the pattern's fixed part, and not by its name alone.
    """

    prefix: str = ""
    lines: bool = False
    relative: bool = True


class Found(NamedTuple):
    """What a source is: a set's name, a folder, or files of one ending that lie below `base`."""

    name: str
    kind: str
    files: tuple[str, ...] = ()
    base: str = ""


def find_source(source: str | os.PathLike) -> Found:
    """Find out what a source is.

    Args:
        source: a folder: images below it, and tables and archives at its top (lines, where it holds nothing else);
            or tables, archives or lines, as a file or a pattern with wildcards and braces (`{00000..00331}.tar`); or a
            retrieval set's name.

    Raises:
        FileNotFoundError: there is none.
        OSError: a folder that cannot be listed.
        ValueError: another format.
    """
    name = os.path.expanduser(os.fspath(source))
    if names_a_set(name):
        return Found(name, "set")
    if os.path.isdir(name):
        next(os.scandir(name), None)
        return Found(name, "folder", base=os.path.abspath(name))
    names = expand_pattern(name)
    if not any(os.path.exists(path) for path in names):
        raise FileNotFoundError(f"There is no {source}: name {_TAKES}.")
    endings = {Path(path).suffix.lower() for path in names}
    if len(endings) != 1 or not any(endings <= set(known) for known in _READERS):
        raise ValueError(f"{source} ({', '.join(sorted(endings))}) is no source: name {_TAKES}, of one kind.")
    fixed = name if os.path.exists(name) else re.split(r"[*?\[{]", name, maxsplit=1)[0]
    files = tuple(os.path.abspath(path) for path in names)
    return Found(name, endings.pop(), files, os.path.abspath(os.path.dirname(fixed)))


def first_reading(found: Found, prefix: str = "") -> Reading:
    """Return how a new source is read."""
    if found.kind != "folder":
        return Reading(prefix)
    at_top = {Path(path).suffix.lower() for path in _at_top(found.base)}
    others = at_top & ARCHIVES_AND_TABLES or any(is_image for _, is_image in walk_images(Path(found.base)))
    return Reading(prefix, lines=not others)


def _at_top(folder: str) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.path for entry in entries if not entry.name.startswith(".") and not os.path.isdir(entry))


def list_items(source: str | os.PathLike | Found, reading: Reading | None = None) -> Iterator[Item | BadItem]:
    """Yield the items of a source one at a time, in a fixed order.

    Args:
        source: see `find_source`, and the readers for ids and payloads.
        reading: how it was read before; as for a new source by default.

    Raises:
        FileNotFoundError, OSError, ValueError: as `find_source` says.
    """
    found = source if isinstance(source, Found) else find_source(source)
    reading = first_reading(found) if reading is None else reading
    items = _read(found, reading)
    return (_prefixed(item, reading.prefix) for item in items) if reading.prefix else items


def _read(found: Found, reading: Reading) -> Iterator[Item | BadItem]:
    def name_of(path: str) -> str:
        return Path(os.path.relpath(path, found.base)).as_posix() if reading.relative else os.path.basename(path)

    if found.kind == "set":
        yield from set_items(found.name)
        return
    files = found.files
    if found.kind == "folder":
        yield from folder_items(Path(found.base))
        files = _at_top(found.base)
    for endings, reader in _READERS.items():
        mine = [path for path in files if Path(path).suffix.lower() in endings]
        if mine and (found.kind != "folder" or reading.lines or endings[0] in ARCHIVES_AND_TABLES):
            yield from reader(mine, name_of)


def _prefixed(item: Item | BadItem, prefix: str) -> Item | BadItem:
    if isinstance(item, BadItem):
        return item._replace(hides=f"{prefix}/{item.hides}") if item.hides else item
    if item.named:
        return item
    try:
        return item._replace(id=checked_id(f"{prefix}/{item.id}"))
    except ValueError as error:
        return BadItem(item.id, f"no index takes its id: {error}")
