"""Hides the server's file paths in hits."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Iterable
from pathlib import PurePath, PurePosixPath, PureWindowsPath
from typing import Any

_ABSOLUTE = re.compile(r"/[^/\s]|[A-Za-z]:[\\/]|\\\\|file:/|~[\\/]")
# Fields that hold words, which may begin like a path.
_WORDS = ("text", "caption")


class PublicNames:
    """Replaces absolute paths by names: relative to one of the folders that the index was built from, or the file's
    name behind a short hash. `shows_paths` leaves them as they are."""

    def __init__(self, folders: Iterable[str | os.PathLike] = (), shows_paths: bool = False):
        roots = {os.path.abspath(folder) for folder in folders} | {os.path.realpath(folder) for folder in folders}
        self.folders = sorted(roots, key=len, reverse=True)
        self.shows_paths = shows_paths

    def hit(self, hit: dict) -> dict:
        """A hit of the pipeline as JSON."""
        shown = {str(key): value if key in _WORDS else self._plain(value) for key, value in hit.items()}
        if hit.get("id") == hit.get("text"):  # a text without an id of its own
            shown["id"] = hit["id"]
        return shown

    def _plain(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {self._plain(str(key)): self._plain(one) for key, one in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._plain(one) for one in value]
        if isinstance(value, (str, os.PathLike)):
            return self.name(os.fspath(value))
        if isinstance(value, float) and not math.isfinite(value):
            return None
        return value if value is None or isinstance(value, (bool, int, float)) else str(type(value).__name__)

    def name(self, value: str) -> str:
        """The string itself, or a name in place of an absolute path."""
        if self.shows_paths or not _ABSOLUTE.match(value):
            return value
        path = value.removeprefix("file://")
        for folder in self.folders:
            if path.startswith(folder + os.sep):
                return PurePath(path[len(folder) + 1 :]).as_posix()
        pure = PurePosixPath(path) if path.startswith(("/", "~/")) else PureWindowsPath(path)
        return f"{hashlib.sha256(value.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}/{pure.name}"
