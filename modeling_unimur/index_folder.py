"""A folder whose content is one whole version or the one before it, whatever happens while it is written.

folder/CURRENT            name of the version and checksum of its index.json, replaced at once
folder/v000007/           index.json with what it is and the checksums of the other files
folder/WRITING            names of the folders that a writer made and has yet to remove; nothing else is removed
folder/writer.lock        who writes
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from .writer_lock import WriterLock

Content = TypeVar("Content")
_CURRENT, _ABOUT, _LOCK, _WRITING = "CURRENT", "index.json", "writer.lock", "WRITING"
_VERSION = re.compile(r"v\d{6,}")
_ASIDE = re.compile(r"\.aside-[\w.-]+")
_POINTER = re.compile(r"\.current-\d+")
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
        return name in (_LOCK, _WRITING) or any(form.fullmatch(name) for form in (_VERSION, _ASIDE, _POINTER))

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
                raise FileNotFoundError(f"{self.path} contains no index (no {_CURRENT}): build one there first.")
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
        try:
            about = json.loads((version / _ABOUT).read_text(encoding="utf-8"))
            sums = dict(about["sha256"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(
                f"The index in {self.path} is damaged ({_ABOUT}: {error!r:.80}); build it again."
            ) from error
        for name, expected in sums.items():
            if not isinstance(name, str) or name in ("", ".", "..") or set(name) & set("/\\:\0"):
                raise ValueError(f"The index in {self.path} is damaged ({_ABOUT} names {name!r:.60}); build it again.")
            if files and _digest(version / name) != expected:
                raise ValueError(f"The index in {self.path} is damaged ({name}); build it again.")
        return about

    def write(self, fill: Callable[[Path], dict]) -> str:
        """Makes the next version and lets readers see it; the caller holds the lock.

        Args:
            fill: writes files into the empty folder that it is given and returns what is to be known about them. It
                raises where a write fails: what it leaves there is taken for whole.

        Returns:
            The version's name.
        """
        current = self.current()
        left = self._remove(current)
        number = int(current[1:]) + 1 if current else 1
        while os.path.lexists(self.path / f"v{number:06d}"):  # somebody else's
            number += 1
        name = f"v{number:06d}"
        aside = self.path / f".aside-{name}-{secrets.token_hex(4)}"
        self._note([*left, aside.name, name, *([current] if current else [])])
        aside.mkdir()
        try:
            about = fill(aside)
            about["sha256"] = {file.name: _digest(file) for file in sorted(aside.iterdir())}
            (aside / _ABOUT).write_text(json.dumps(about, indent=1), encoding="utf-8")
            for file in aside.iterdir():
                _sync(file)
            _sync(aside)
            os.replace(aside, self.path / name)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            self._note(left)
            raise
        _sync(self.path)
        pointer = self.path / f".current-{os.getpid()}"
        pointer.write_text(f"{name} {_digest(self.path / name / _ABOUT)}\n", encoding="ascii")
        _sync(pointer)
        os.replace(pointer, self.path / _CURRENT)
        _sync(self.path)
        # Who reads the old version now has its files open or starts again with the new one.
        self._note(self._remove(name))
        return name

    def _remove(self, current: str | None) -> list[str]:
        """Removes the versions that writers made and that are not current; returns those that it could not remove."""
        try:
            names = (self.path / _WRITING).read_text(encoding="ascii").split()
        except (FileNotFoundError, UnicodeDecodeError):
            names = []
        names = [name for name in names if name != current and (_VERSION.fullmatch(name) or _ASIDE.fullmatch(name))]
        for name in names:
            shutil.rmtree(self.path / name, ignore_errors=True)
        for entry in self.path.iterdir():
            if _POINTER.fullmatch(entry.name) and entry.is_file():
                entry.unlink()
        return [name for name in names if os.path.lexists(self.path / name)]

    def _note(self, names: list[str]) -> None:
        """Writes down what may be removed, before it is made."""
        place = self.path / _WRITING
        if not names:
            place.unlink(missing_ok=True)
            return
        place.write_text("\n".join(names) + "\n", encoding="ascii")
        _sync(place)
        _sync(self.path)


class CheckedFile:
    """A new file of a version, for code that does not notice when a write fails.

    `write` raises where it fails, and leaving the context compares what is on the disk with what was written.

    Args:
        path: of the file.

    Raises:
        OSError: it cannot be written whole.
    """

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self) -> CheckedFile:
        self._file, self._written = open(self.path, "xb"), hashlib.sha256()
        return self

    def write(self, data: bytes) -> int:
        """Writes all of the bytes and returns their number."""
        self._file.write(data)
        self._written.update(data)
        return len(data)

    def __exit__(self, kind: object, *exception: object) -> None:
        with self._file:
            self._file.flush()
            os.fsync(self._file.fileno())
        if kind is None and _digest(self.path) != self._written.hexdigest():
            raise OSError(f"{self.path} is not what was written to it: the disk may be full or damaged.")


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


__all__ = ["CheckedFile", "IndexFolder"]
