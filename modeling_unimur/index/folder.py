"""Indexes kept in a folder: what they share, how they are read, and how they are written (see `versions`)."""

from __future__ import annotations

import functools
import json
import os
import warnings
from pathlib import Path

import numpy as np
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.numpy import save_file

from ..memory_index import KINDS, MEMORY, UNREADABLE, RetrievalIndex, VectorIndex, plain_value
from .base import payload_text, require_same
from .hybrid import write_words
from .versions import IndexFolder, current_version, read_version

FORMAT = 1


class FolderIndex(RetrievalIndex):
    """An index whose payloads are JSON, in whatever form its parts keep vectors.

    `parts` holds the candidates of each kind: `add` and `remove` them, `search` them, `vectors` and `payload` by row,
    `rows` by id; `write(folder, kind)` and `read(folder, kind)` them.
    """

    keeps_objects = False
    # The lock of a writer that holds the folder.
    lock = None
    # Whether other writers are kept out until `close`; otherwise they are while a version is written, and one that
    # somebody else has written since is not overwritten.
    holds_folder = False
    # Attributes that a version says beside width and model, as arguments of the class; and those that `tune` changes.
    settings: tuple[str, ...] = ()
    tunes: tuple[str, ...] = ()

    def __init__(self, width: int, model: str):
        VectorIndex.__init__(self, width, model)

    def _payload(self, item: str, payload: dict | None) -> str:
        return payload_text(item, payload)

    def compact(self) -> None:
        """Frees what removed candidates still take."""

    def write_files(self, folder: Path) -> dict:
        """Writes the files of each kind and returns what is to be known about them."""
        for kind, part in self.parts.items():
            part.write(folder, kind)
        return {name: getattr(self, name) for name in self.settings}

    @classmethod
    def read_files(cls, folder: Path, about: dict) -> FolderIndex:
        """Reads what `write_files` wrote; raises whatever a damaged file makes it raise."""
        index = cls(about["width"], about["model"], **{name: about[name] for name in cls.settings})
        for kind, part in index.parts.items():
            part.read(folder, kind)
        return index


def load(
    kind: type[RetrievalIndex],
    folder: str | os.PathLike,
    width: int | None = None,
    model: str | None = None,
    read_only: bool = False,
) -> RetrievalIndex:
    """Reads the folder's current version as an index of a class, `kind`, and of the width and model of the caller's
    vectors.

    Raises:
        FileNotFoundError: no index there.
        ValueError: a damaged one, a newer format, or another class, width or model.
    """
    version, index = read_version(folder, functools.partial(_read_files, kind))
    require_same(folder, width, model, index.width, index.model)
    index.home, index.version, index.read_only = Path(folder), version, read_only
    return index


def _read_files(kind: type[RetrievalIndex], folder: Path, about: dict) -> RetrievalIndex:
    if about.get("format") != FORMAT:
        raise ValueError(f"The index in {folder} has format {about.get('format')}; this version reads {FORMAT}.")
    if (about.get("factory") == MEMORY) == issubclass(kind, FolderIndex):
        raise ValueError(f"The index in {folder} is {about.get('factory')!r}, FAISS or not: open it by `open_index`.")
    try:
        index = kind.read_files(folder, about)
        if {one: index.count(one) for one in about["counts"]} != about["counts"]:
            raise ValueError("its counts do not agree")
    except FileNotFoundError:
        raise
    except UNREADABLE as error:
        reason = f"{error}" if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise ValueError(f"The index in {folder} is damaged: {reason.rstrip('.')}; build it again.") from error
    index.keeps_words = about.get("words") is True
    return index


def refresh(index: RetrievalIndex) -> bool:
    """Goes on with the version that a writer has landed since; returns whether there was one."""
    if (current_version(index.home) or ("",))[0] == index.version:
        return False
    other = load(type(index), index.home, index.width, index.model, read_only=True)
    if isinstance(index, FolderIndex):
        other.tune(**{name: getattr(index, name) for name in index.tunes})
    with index.guard:  # others search meanwhile
        index.parts, index.version = other.parts, other.version
        index.keeps_words, index.words = other.keeps_words, None
    return True


def keep_in(index: RetrievalIndex, folder: str | os.PathLike) -> None:
    """Reserves a folder without an index for an index; `save` then needs no folder. Raises ValueError where something
    lies there already, and BlockingIOError for another writer."""
    place = IndexFolder(folder)
    lock = place.lock()
    if index.home is not None or place.current() is not None:
        lock.release()
        raise ValueError(f"{folder} holds an index, or this index has its folder already.")
    index.home = place.path
    _hold(index, lock)


def save(
    index: RetrievalIndex, folder: str | os.PathLike | None = None, compact: bool = True, replace: bool = False
) -> None:
    """Writes an index as the next version of a folder, by default its own, which readers see whole or not at all.

    Args:
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
    # The code of a release, which may be an earlier one, has the index in memory alone.
    is_own = isinstance(index, FolderIndex)
    write_files = index.write_files if is_own else functools.partial(_write_memory, index)
    held = index.lock if is_own and same else None
    lock = held or target.lock()
    try:
        # Nothing that somebody else wrote may vanish unseen.
        known = index.version if same else None
        if target.current() != known and (same or not replace):
            what = "has changed since it was read" if same else "holds another index"
            raise ValueError(f"{target.path} {what}: open it by load or open_index and change that one.")
        if compact and is_own:
            index.compact()
        about = {"format": FORMAT, "factory": index.factory, "width": index.width, "model": index.model}
        about["counts"] = {kind: index.count(kind) for kind in KINDS}
        version = target.write(lambda place: {**about, **write_files(place), **write_words(index, place)})
        if same or index.home is None:
            index.home, index.version, index.has_saved_words = target.path, version, True
            held = _hold(index, lock)
    finally:
        if lock is not held:
            lock.release()


def _hold(index: RetrievalIndex, lock: FileLock) -> FileLock | None:
    """Keeps the folder until the index is closed, where it is one that does."""
    if not (isinstance(index, FolderIndex) and index.holds_folder):
        lock.release()
        return None
    index.lock = lock
    return lock


def _write_memory(index: RetrievalIndex, folder: Path) -> dict:
    """Writes the files of an in-memory index."""
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
    return {}
