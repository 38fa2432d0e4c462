"""A folder whose content is one whole version or the one before it, whatever happens while it is written.

folder/CURRENT            name of the version and checksum of its index.json, replaced at once
folder/v000007/           index.json with what it is and the checksums of the other files
folder/WRITING            names of the folders that a writer made and has yet to remove; nothing else is removed
folder/writer.lock        held while a writer has the folder
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
from typing import Any

from filelock import FileLock, Timeout

# How often a reader starts again because new versions landed while it read.
_READ_ATTEMPTS = 10
_ABOUT, _LOCK, _WRITING = "index.json", "writer.lock", "WRITING"
_VERSION, _CURRENT = re.compile(r"v\d{6,}"), re.compile(r"(v\d{6,}) (\S+)")
_ASIDE = re.compile(r"\.aside-[\w.-]+")
_POINTER = re.compile(r"\.current-\d+")


# -- reading ----------------------------------------------------------------------------------------------------------
def current_version(folder: str | os.PathLike) -> tuple[str, str] | None:
    """Name of the version that readers of a folder see, and checksum of its `index.json`; None before the first.

    Raises:
        ValueError: it is a file, damaged, or the index of an earlier version of the package.
    """
    folder = Path(folder)
    if folder.is_file():
        raise ValueError(f"{folder} is a file; an index is a folder.")
    try:
        found = _CURRENT.fullmatch((folder / "CURRENT").read_bytes().decode("ascii", "replace").strip())
    except FileNotFoundError:
        if (folder / "index.json").is_file() and (folder / "embeddings.safetensors").is_file():
            raise ValueError(f"The index in {folder} was written by an earlier version: build it again.") from None
        return None
    if found is None:
        raise ValueError(f"The index in {folder} is damaged: CURRENT names no version.")
    return found[1], found[2]


def read_version(folder: str | os.PathLike, load: Callable[[Path, dict], Any], files: bool = True) -> tuple[str, Any]:
    """Loads a folder's current version; when a writer replaced it meanwhile, the one that came after.

    Args:
        load: called with the version's folder and what is known about it; files have been compared with checksums.
        files: whether the files are compared; `index.json` is in any case.

    Returns:
        The version's name and what `load` returned.

    Raises:
        FileNotFoundError: there is no index.
        ValueError: it is damaged.
    """
    for _ in range(_READ_ATTEMPTS):
        current = current_version(folder)
        if current is None:
            raise FileNotFoundError(
                f"{folder} contains no index: build one there first, or save one with `save_index`."
            )
        version = Path(folder, current[0])
        try:
            return current[0], load(version, _checked_about(version, current[1], files))
        except (OSError, ValueError, RuntimeError) as error:
            if current_version(folder) != current:
                continue
            if isinstance(error, FileNotFoundError):
                raise ValueError(f"The index in {folder} is damaged: {error.filename} is gone.") from error
            raise
    raise ValueError(f"The index in {folder} was replaced {_READ_ATTEMPTS} times while it was read; try again.")


def about_index(folder: str | os.PathLike) -> dict | None:
    """What is known about the index in a folder, None where there is none; its other files are not looked at.

    Raises:
        ValueError: it is damaged.
    """
    return current_version(folder) and read_version(folder, lambda _, about: about, files=False)[1]


def _checked_about(version: Path, digest: str, files: bool) -> dict:
    about, sums = {}, {"index.json": digest}
    try:
        if fine := file_digest(version / "index.json") == digest:
            about = json.loads((version / "index.json").read_text(encoding="utf-8"))
            sums = dict(about["sha256"])
    except (ValueError, KeyError, TypeError, RecursionError):
        fine = False
    for name, expected in sums.items():
        fine = fine and isinstance(name, str) and name not in ("", ".", "..") and not set(name) & set("/\\:\0")
        if not fine:
            name = "index.json"
        if not fine or (files and file_digest(version / name) != expected):
            raise ValueError(f"The index in {version.parent} is damaged ({name}); build it again.")
    return about


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


# -- writing ----------------------------------------------------------------------------------------------------------
def writer_lock(path: Path, of: str) -> FileLock:
    """A lock that one process holds until it releases it, and that the system lets go when the process ends, however
    it ends. The file stays. Raises BlockingIOError while another writer has it; the message says of what (`of`)."""
    lock = FileLock(path, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise BlockingIOError(
            f"{of} is being written by another process. Open it with read_only=True, or wait until that writer closes "
            "it."
        ) from error
    return lock


class IndexFolder:
    """Writes versions into a folder, which the first one makes.

    Raises:
        ValueError: when something else lies there.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        if current_version(self.path) is None and self.path.is_dir():
            begun = (self.path / _LOCK).exists()  # a first save that did not end
            others = [entry.name for entry in self.path.iterdir() if not (begun and self._ours(entry.name))]
            if others:
                raise ValueError(
                    f"{path} holds something else ({sorted(others)[0]}); choose an empty folder for an index."
                )

    @staticmethod
    def _ours(name: str) -> bool:
        known = (_LOCK, _WRITING, "writer.json")  # the last of earlier versions
        return name in known or any(form.fullmatch(name) for form in (_VERSION, _ASIDE, _POINTER))

    def current(self) -> str | None:
        """Name of the version that readers see, none before the first."""
        return (current_version(self.path) or (None,))[0]

    def about(self) -> dict | None:
        """What is known about the current version, none before the first."""
        return about_index(self.path)

    def lock(self) -> FileLock:
        """Keeps other writers out until it is released. Raises BlockingIOError where there is one."""
        self.path.mkdir(parents=True, exist_ok=True)
        return writer_lock(self.path / _LOCK, f"The index in {self.path}")

    def write(self, fill: Callable[[Path], dict]) -> str:
        """Makes the next version, lets readers see it, and returns its name; the caller holds the lock.

        Args:
            fill: writes files into the empty folder that it is given and returns what is to be known about them. It
                raises where a write fails: what it leaves there is taken for whole.
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
            about["sha256"] = {file.name: file_digest(file) for file in sorted(aside.iterdir())}
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
        pointer.write_text(f"{name} {file_digest(self.path / name / 'index.json')}\n", encoding="ascii")
        _sync(pointer)
        os.replace(pointer, self.path / "CURRENT")
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


def _sync(path: Path) -> None:
    """Waits until a file's content, or a folder's list of names, is on the disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows opens no folders
    handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
