"""What indexes that are searched in memory and kept in a folder have in common: the life of the folder."""

from __future__ import annotations

import os
import threading
from abc import abstractmethod
from pathlib import Path

from safetensors import SafetensorError

from .index_folder import IndexFolder
from .vector_index import VectorIndex, locked, require_same
from .writer_lock import WriterLock

FORMAT = 1
# What reading files raises that were written by somebody else.
_UNREADABLE = (
    ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RuntimeError, SafetensorError,
)  # fmt: skip


class SavedIndex(VectorIndex):
    """An index with `save`, `load` and `refresh`: a folder's versions are seen whole or not at all."""

    # Whether the folder is kept from other writers from `load` until `close`. Otherwise it is while a version is
    # written, and one that somebody else wrote since `load` is not overwritten.
    holds_folder = True

    def __init__(self, width: int, model: str):
        super().__init__(width, model)
        self._begin()

    def _begin(self) -> None:
        self._guard = threading.RLock()
        self._folder: IndexFolder | None = None
        self._lock: WriterLock | None = None
        self._version: str | None = None
        self.read_only = False

    @abstractmethod
    def _write(self, folder: Path) -> dict:
        """Writes files into an empty folder and returns what is to be known about them."""

    @classmethod
    def _require_own(cls, folder: Path, about: dict) -> None:
        """Refuses the index of another class."""

    @classmethod
    @abstractmethod
    def _read(cls, folder: Path, about: dict) -> SavedIndex:
        """Reads what `_write` wrote; raises whatever a damaged file makes it raise."""

    @abstractmethod
    def _take(self, other: SavedIndex) -> None:
        """Goes on with the candidates of a newer version."""

    def _compact(self) -> None:
        """Frees what removed candidates still take."""

    def _require_writer(self) -> None:
        if self.read_only:
            raise PermissionError("The index was opened for reading; open it without read_only to change it.")

    @locked
    def keep_in(self, folder: str | os.PathLike) -> None:
        """Reserves a folder without an index for this one; `save` then needs no folder.

        Raises:
            ValueError: something lies there already.
            BlockingIOError: another writer has the folder.
        """
        place = IndexFolder(folder)
        lock = place.lock()
        if self._folder is not None or place.current() is not None:
            lock.release()
            raise ValueError(f"{folder} holds an index, or this index has its folder already.")
        self._folder = place
        self._hold(lock)

    def _hold(self, lock: WriterLock) -> None:
        if self.holds_folder:
            self._lock = lock
        else:
            lock.release()

    @locked
    def save(self, folder: str | os.PathLike | None = None, compact: bool = True, replace: bool = False) -> None:
        """Writes the index as the folder's next version, which readers see whole or not at all.

        Args:
            folder: where it was read from or saved first, by default.
            compact: frees tombstones first. An HNSW graph is then built again, which takes as long as building it
                did: pass False to save often and compact seldom.
            replace: whether another index in a folder that this one does not come from may be replaced.

        Raises:
            ValueError: no folder, one that holds something else, or a version that this index does not know of.
            BlockingIOError: another writer has the folder.
            PermissionError: the index was opened for reading.
        """
        target = self._folder if folder is None else IndexFolder(folder)
        if target is None:
            raise ValueError("Where to? Name a folder: save(folder).")
        same = self._folder is not None and target.path.resolve() == self._folder.path.resolve()
        if same:
            self._require_writer()
        lock = self._lock if same and self._lock is not None else target.lock()
        try:
            # Nothing that somebody else wrote may vanish unseen.
            known = self._version if same else None
            if target.current() != known and (same or not replace):
                what = "has changed since it was read" if same else "holds another index"
                raise ValueError(f"{target.path} {what}: open it by load or open_index and change that one.")
            if compact:
                self._compact()
            version = target.write(lambda place: {"format": FORMAT, **self._write(place)})
            if same or self._folder is None:
                self._folder, self._version = target, version
                self._lock = lock if self.holds_folder else None
        finally:
            if lock is not self._lock:
                lock.release()

    @classmethod
    def load(
        cls,
        folder: str | os.PathLike,
        width: int | None = None,
        model: str | None = None,
        read_only: bool = False,
    ) -> SavedIndex:
        """Reads the folder's current version.

        Args:
            folder: of `save`.
            width: of the caller's vectors, to be compared.
            model: of the caller's vectors, to be compared.
            read_only: leaves the folder to its writer.

        Raises:
            FileNotFoundError: no index there.
            ValueError: a damaged one, a newer format, another width or model.
            BlockingIOError: there is another writer.
        """
        place = IndexFolder(folder)
        if place.current() is None:
            raise FileNotFoundError(
                f"{folder} contains no index: build one there first, or save one with `save_index`."
            )
        lock = place.lock() if cls.holds_folder and not read_only else None
        try:
            version, index = place.read(cls._of_format)
            require_same(folder, width, model, index.width, index.model)
        except BaseException:
            if lock is not None:
                lock.release()
            raise
        index._folder, index._lock, index._version, index.read_only = place, lock, version, read_only
        return index

    @classmethod
    def _of_format(cls, folder: Path, about: dict) -> SavedIndex:
        if about.get("format") != FORMAT:
            raise ValueError(f"The index in {folder} has format {about.get('format')}; this version reads {FORMAT}.")
        cls._require_own(folder, about)
        try:
            index = cls._read(folder, about)
            counts = {kind: index.count(kind) for kind in about["counts"]}
            if counts != about["counts"]:
                raise ValueError("its counts do not agree")
        except FileNotFoundError:
            raise
        except _UNREADABLE as error:
            reason = f"{error}" if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
            raise ValueError(f"The index in {folder} is damaged: {reason.rstrip('.')}; build it again.") from error
        return index

    def refresh(self) -> bool:
        """Goes on with the version that a writer has landed since; for an index opened with `read_only`.

        Returns:
            Whether there was a newer one.
        """
        if not self.read_only or self._folder.current() == self._version:
            return False
        version, index = self._folder.read(self._of_format)
        require_same(self._folder.path, self.width, self.model, index.width, index.model)
        with self._guard:  # others search meanwhile
            self._take(index)
            self._version = version
        return True

    @locked
    def close(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None


__all__ = ["FORMAT", "SavedIndex"]
