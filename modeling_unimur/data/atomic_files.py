"""Writes files atomically: a reader, or a run that was killed, finds a whole file or none."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_file(path: str | os.PathLike) -> Iterator[Path]:
    """Gives a path to write to. The file takes the place of `path` when the block ends, and is removed if it raises.

    The folder is created, a link is followed, and the content is synced to disk first.
    """
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name[:60]}.{secrets.token_hex(4)}.part")
    try:
        yield aside
        with open(aside, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def write_json(path: str | os.PathLike, value: Any, **options: bool) -> None:
    """Writes a value as an indented JSON file; `options` are those of `json.dumps`."""
    text = json.dumps(value, indent=1, **options)
    with atomic_file(path) as aside:
        aside.write_text(text + "\n", encoding="utf-8")
