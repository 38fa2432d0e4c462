"""Which reader a source is for."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from ...data.img2dataset import expand_braces
from ...data.retrieval_sources import SOURCES, names_a_set
from .items import BadItem, Item
from .picture_sources import archive_items, folder_items
from .set_sources import set_items
from .text_sources import line_items, table_items

_READERS: dict[str, Callable[[list[str]], Iterator[Item | BadItem]]] = {
    ".tar": archive_items,
    ".parquet": table_items,
    ".jsonl": line_items,
    ".ndjson": line_items,
    ".txt": line_items,
}
_TAKES = (
    "a folder of pictures, parquet tables (.parquet), webdataset archives (.tar), lines (.jsonl, .txt), or a "
    f"retrieval set ({', '.join(SOURCES)})"
)


def list_items(source: str | os.PathLike) -> Iterator[Item | BadItem]:
    """Items of a source, in an order that does not change, one at a time.

    Args:
        source: a folder of pictures; or tables, archives or lines, as a file, a folder that holds nothing else at its
            top, or a pattern with wildcards and braces (`{00000..00331}.tar`); or a retrieval set's name. See the
            readers for ids and payloads.

    Raises:
        FileNotFoundError: there is none.
        ValueError: another format.
    """
    name = os.path.expanduser(os.fspath(source))
    if names_a_set(name):
        return set_items(name)
    if os.path.isdir(name):
        inside = sorted(entry.path for entry in os.scandir(name) if entry.is_file() and not entry.name.startswith("."))
        endings = {Path(path).suffix.lower() for path in inside} & {".tar", ".parquet"}
        if len(endings) != 1:
            return folder_items(Path(name))
        names = [path for path in inside if Path(path).suffix.lower() in endings]
    else:
        names = []
        for part in [name] if os.path.exists(name) else expand_braces(name):
            names += sorted(glob.glob(part)) if any(sign in part for sign in "*?[") else [part]
        if not any(os.path.exists(path) for path in names):
            raise FileNotFoundError(f"There is no {source}: name {_TAKES}.")
    endings = {Path(path).suffix.lower() for path in names}
    if len(endings) != 1 or not endings <= set(_READERS):
        raise ValueError(f"{source} ({', '.join(sorted(endings))}) is no source: name {_TAKES}, of one kind.")
    return _READERS[endings.pop()]([os.path.abspath(path) for path in names])


__all__ = ["list_items"]
