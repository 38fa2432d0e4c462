"""A folder whose content is one whole version or the one before it, whatever happens while it is written.

folder/CURRENT            name of the version and checksum of its index.json, replaced at once
folder/v000007/           index.json with what it is and the checksums of the other files
folder/WRITING            names of the folders that a writer made and has yet to remove; nothing else is removed
folder/writer.lock        held while a writer has the folder
folder/writer.json        who that is

`memory_index` reads it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.numpy import save_file

from ..memory_index import (
    FORMAT,
    KINDS,
    MEMORY,
    FolderIndex,
    RetrievalIndex,
    about_index,
    current_version,
    file_digest,
    plain_value,
)
from .hybrid import write_words

_ABOUT, _LOCK, _WRITER, _WRITING = "index.json", "writer.lock", "writer.json", "WRITING"
_VERSION = re.compile(r"v\d{6,}")
_ASIDE = re.compile(r"\.aside-[\w.-]+")
_POINTER = re.compile(r"\.current-\d+")


class WriterLock:
    """A lock that one process holds from its making until `release`, and that the system lets go when the process
    ends, however it ends.

    Args:
        path: of the lock file, which stays; who holds it stands beside it, in `*.json`.
        of: what is locked, for the message.

    Raises:
        BlockingIOError: when another writer holds it; the message says who and since when.
    """

    def __init__(self, path: Path, of: str):
        self._lock, self._about = FileLock(path, thread_local=False), path.with_suffix(".json")
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise BlockingIOError(
                f"{of} is being written by {self._holder()}. Open it with read_only=True, or wait until that writer "
                "closes it."
            ) from error
        about = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        self._about.write_text(json.dumps(about), encoding="utf-8")

    def _holder(self) -> str:
        try:
            about = json.loads(self._about.read_text(encoding="utf-8"))
            return f"process {about['pid']} on {about['host']} since {about['since']}"
        except (OSError, ValueError, KeyError, TypeError):
            return "another process"

    def release(self) -> None:
        """Lets the next writer in."""
        if self._lock.is_locked:
            self._about.unlink(missing_ok=True)
            self._lock.release()


class IndexFolder:
    """Writes versions.

    Args:
        path: of the folder; made by the first version.

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
        known = (_LOCK, _WRITER, _WRITING)
        return name in known or any(form.fullmatch(name) for form in (_VERSION, _ASIDE, _POINTER))

    def current(self) -> str | None:
        """Name of the version that readers see, none before the first."""
        return (current_version(self.path) or (None,))[0]

    def about(self) -> dict | None:
        """What is known about the current version, none before the first."""
        return about_index(self.path)

    def lock(self) -> WriterLock:
        """Keeps other writers out until it is released.

        Raises:
            BlockingIOError: when there is another writer.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        return WriterLock(self.path / _LOCK, f"The index in {self.path}")

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
        if kind is None and file_digest(self.path) != self._written.hexdigest():
            raise OSError(f"{self.path} is not what was written to it: the disk may be full or damaged.")


def _sync(path: Path) -> None:
    """Waits until a file's content, or a folder's list of names, is on the disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows opens no folders
    handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# -- indexes in folders -----------------------------------------------------------------------------------------------
def keep_in(index: FolderIndex, folder: str | os.PathLike) -> None:
    """Reserves a folder without an index for an index; `save` then needs no folder.

    Raises:
        ValueError: something lies there already.
        BlockingIOError: another writer has the folder.
    """
    place = IndexFolder(folder)
    lock = place.lock()
    if index.home is not None or place.current() is not None:
        lock.release()
        raise ValueError(f"{folder} holds an index, or this index has its folder already.")
    index.home = place.path
    _hold(index, lock)


def save(
    index: FolderIndex, folder: str | os.PathLike | None = None, compact: bool = True, replace: bool = False
) -> None:
    """Writes an index as the folder's next version, which readers see whole or not at all.

    Args:
        folder: where it was read from or saved first, by default.
        compact: frees tombstones first. An HNSW graph is then built again, which takes as long as building it did:
            pass False to save often and compact seldom.
        replace: whether another index in a folder that this one does not come from may be replaced.

    Raises:
        ValueError: no folder, one that holds something else, or a version that this index does not know of.
        BlockingIOError: another writer has the folder.
        PermissionError: the index was opened for reading.
    """
    if folder is None and index.home is None:
        raise ValueError("Where to? Name a folder: save(folder).")
    target = IndexFolder(index.home if folder is None else folder)
    same = index.home is not None and target.path.resolve() == index.home.resolve()
    if same:
        index.require_writer()
    lock = index.lock if same and index.lock is not None else target.lock()
    try:
        # Nothing that somebody else wrote may vanish unseen.
        known = index.version if same else None
        if target.current() != known and (same or not replace):
            what = "has changed since it was read" if same else "holds another index"
            raise ValueError(f"{target.path} {what}: open it by load or open_index and change that one.")
        if compact:
            index.compact()
        version = target.write(
            lambda place: {"format": FORMAT, **index.write_files(place), **write_words(index, place)}
        )
        if same or index.home is None:
            index.home, index.version, index.has_saved_words = target.path, version, True
            _hold(index, lock)
    finally:
        if lock is not index.lock:
            lock.release()


def _hold(index: FolderIndex, lock: WriterLock) -> None:
    """Keeps the folder until the index is closed, where it is one that does."""
    if index.holds_folder:
        index.lock = lock
    else:
        lock.release()


def write_memory(index: RetrievalIndex, folder: Path) -> dict:
    """Writes the files of an index in memory and returns what is to be known about them."""
    parts = {kind: part for kind, part in index.parts.items() if len(part)}
    try:
        save_file(
            {kind: np.ascontiguousarray(part.matrix()) for kind, part in parts.items()},
            folder / "embeddings.safetensors",
        )
    except SafetensorError as error:
        raise OSError(f"The vectors cannot be written to {folder.parent}: {error}.") from error
    lost = 0
    with open(folder / "items.jsonl", "w", encoding="utf-8", newline="\n") as file:
        for kind, part in parts.items():
            for item, payload in zip(part.ids, part.payloads, strict=True):
                try:
                    plain_value(payload.get("image"))
                except ValueError:  # an object
                    lost, payload = lost + 1, {key: value for key, value in payload.items() if key != "image"}
                file.write(json.dumps({"kind": kind, "id": item, "payload": payload}, ensure_ascii=False) + "\n")
    if lost:
        warnings.warn(f"{lost} images were given as objects: saved without a path.", stacklevel=7)
    counts = {kind: index.count(kind) for kind in KINDS}
    return {"factory": MEMORY, "width": index.width, "model": index.model, "counts": counts}


__all__ = ["CheckedFile", "IndexFolder", "WriterLock", "keep_in", "save", "write_memory"]
