"""A folder whose content is one whole version or the one before it, whatever happens while it is written.

folder/CURRENT            name of the version and checksum of its index.json, replaced at once
folder/v000007/           index.json with what it is and the checksums of the other files
folder/writer.lock        who writes
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from .writer_lock import WriterLock

Content = TypeVar("Content")
_CURRENT, _ABOUT, _LOCK = "CURRENT", "index.json", "writer.lock"
_VERSION = re.compile(r"v\d{6,}")
# How often a reader starts again because new versions landed while it read.
_READ_ATTEMPTS = 10


class IndexFolder:
    """Reads and writes versions.

    Args:
        path: of the folder; made by the first version.

    Raises:
        ValueError: when something else lies there.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"{path} is a file; an index is a folder.")
        if self.path.is_dir() and not (self.path / _CURRENT).exists():
            if (self.path / _ABOUT).is_file() and (self.path / "embeddings.safetensors").is_file():
                raise ValueError(f"The index in {path} was written by an earlier version: build it again elsewhere.")
            begun = (self.path / _LOCK).exists()  # a first save that did not end
            others = [entry.name for entry in self.path.iterdir() if not (begun and self._ours(entry.name))]
            if others:
                raise ValueError(
                    f"{path} holds something else ({sorted(others)[0]}); choose an empty folder for an index."
                )

    @staticmethod
    def _ours(name: str) -> bool:
        return bool(_VERSION.fullmatch(name)) or name == _LOCK or name.startswith((".aside-", ".current-"))

    def current(self) -> str | None:
        """Name of the version that readers see, none before the first."""
        found = self._current()
        return found and found[0]

    def _current(self) -> tuple[str, str] | None:
        try:
            name, _, digest = (self.path / _CURRENT).read_text(encoding="ascii").strip().partition(" ")
        except FileNotFoundError:
            return None
        except UnicodeDecodeError:
            name, digest = "", ""
        if not _VERSION.fullmatch(name) or not digest:
            raise ValueError(f"The index in {self.path} is damaged: {_CURRENT} names no version.")
        return name, digest

    def about(self) -> dict | None:
        """What is known about the current version, none before the first; its other files are not looked at.

        Raises:
            ValueError: when it is damaged.
        """
        return None if self.current() is None else self.read(lambda _, about: about, files=False)[1]

    def lock(self) -> WriterLock:
        """Keeps other writers out until it is released.

        Raises:
            BlockingIOError: when there is another writer.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        return WriterLock(self.path / _LOCK, f"The index in {self.path}")

    def read(self, load: Callable[[Path, dict], Content], files: bool = True) -> tuple[str, Content]:
        """Loads the current version; when a writer replaced it meanwhile, the one that came after.

        Args:
            load: called with the version's folder and with what `write` was told about it; files have been compared
                with their checksums.
            files: whether the files are compared; `index.json` is in any case.

        Returns:
            The version's name and what `load` returned.

        Raises:
            FileNotFoundError: when there is no index.
            ValueError: when it is damaged.
        """
        for _ in range(_READ_ATTEMPTS):
            current = self._current()
            if current is None:
                raise FileNotFoundError(f"{self.path} holds no index (no {_CURRENT}): build one there first.")
            name, digest = current
            try:
                return name, load(self.path / name, self._checked(self.path / name, digest, files))
            except (OSError, ValueError, RuntimeError) as error:
                if self._current() != current:
                    continue
                if isinstance(error, FileNotFoundError):
                    error = ValueError(f"The index in {self.path} is damaged: {error.filename} is gone.")
                raise error
        raise ValueError(f"The index in {self.path} was replaced {_READ_ATTEMPTS} times while it was read; try again.")

    def _checked(self, version: Path, digest: str, files: bool) -> dict:
        if _digest(version / _ABOUT) != digest:
            raise ValueError(f"The index in {self.path} is damaged ({_ABOUT}); build it again.")
        about = json.loads((version / _ABOUT).read_text(encoding="utf-8"))
        for name, expected in about["sha256"].items() if files else ():
            if _digest(version / name) != expected:
                raise ValueError(f"The index in {self.path} is damaged ({name}); build it again.")
        return about

    def write(self, fill: Callable[[Path], dict]) -> str:
        """Makes the next version and lets readers see it; the caller holds the lock.

        Args:
            fill: writes files into the empty folder that it is given and returns what is to be known about them.

        Returns:
            The version's name.
        """
        current = self.current()
        for entry in self.path.iterdir():  # what a writer that was killed left
            if self._ours(entry.name) and entry.name not in (current, _LOCK):
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        name = f"v{int(current[1:]) + 1 if current else 1:06d}"
        aside = Path(tempfile.mkdtemp(prefix=".aside-", dir=self.path))
        try:
            aside.chmod(0o755)  # temporary folders are private
            about = fill(aside)
            about["sha256"] = {file.name: _digest(file) for file in sorted(aside.iterdir())}
            (aside / _ABOUT).write_text(json.dumps(about, indent=1), encoding="utf-8")
            for file in aside.iterdir():
                _sync(file)
            _sync(aside)
            os.replace(aside, self.path / name)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        _sync(self.path)
        pointer = self.path / f".current-{os.getpid()}"
        pointer.write_text(f"{name} {_digest(self.path / name / _ABOUT)}\n", encoding="ascii")
        _sync(pointer)
        os.replace(pointer, self.path / _CURRENT)
        _sync(self.path)
        if current:
            # Who reads it now has its files open or starts again with the new version.
            shutil.rmtree(self.path / current, ignore_errors=True)
        return name


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    """Waits until a file's content, or a folder's list of names, is on the disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows opens no folders
    handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


__all__ = ["IndexFolder"]
