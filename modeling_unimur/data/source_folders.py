"""The folders that an index of this computer was built from.

They are kept in the user's cache and not in the index: an index that somebody else made could name any folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path

from .atomic_files import write_json
from .cache import cache_dir
from .registry import names_a_set

_ADDRESS = re.compile(r"[\w+]+://|[\w.-]+:\d{1,5}$")
_WILDCARDS = re.compile(r"[*?\[{]")


def folder_of_source(source: str | os.PathLike) -> Path:
    """Return the folder of the files of a source. For a packaged set it is the cache."""
    name = os.path.expanduser(os.fspath(source))
    if names_a_set(name):
        _, _, name = name.partition("=")
        if not name:
            return cache_dir()
    path = Path(os.path.abspath(name))
    if not path.exists():  # a pattern
        parts = [number for number, part in enumerate(path.parts) if _WILDCARDS.search(part)]
        path = Path(*path.parts[: parts[0]]) if parts else path.parent
    return path if path.is_dir() else path.parent


def record_sources(index: str | os.PathLike, folders: Iterable[str | os.PathLike]) -> None:
    """Notes that an index was filled with files of these folders. A cache that cannot be written is passed over: its
    user names the folders by hand then."""
    file = _record(index)
    folders = {os.fspath(folder) for folder in (*source_folders(index), *folders)}
    with contextlib.suppress(OSError):
        write_json(file, {"index": _place(index), "folders": sorted(folders)})


def source_folders(index: str | os.PathLike) -> list[Path]:
    """Return the folders that this user built an index from; none for an index that came from elsewhere."""
    try:
        record = json.loads(_record(index).read_text(encoding="utf-8"))
        return [Path(folder) for folder in record["folders"]] if record["index"] == _place(index) else []
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _place(index: str | os.PathLike) -> str:
    name = os.fspath(index)
    return name if _ADDRESS.match(name) else os.path.realpath(os.path.expanduser(name))


def _record(index: str | os.PathLike) -> Path:
    key = hashlib.sha256(_place(index).encode("utf-8", "surrogateescape")).hexdigest()[:32]
    return records_folder() / f"{key}.json"


def records_folder() -> Path:
    """Where the records of all indexes lie."""
    return cache_dir() / "index_sources"
