"""A lock that one process holds and that the system lets go when the process ends, however it ends."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
    import msvcrt


class WriterLock:
    """Held from its making until `release`.

    Args:
        path: of the lock file, which stays.
        of: what is locked, for the message.

    Raises:
        BlockingIOError: when another writer holds it; the message says who and since when.
    """

    def __init__(self, path: Path, of: str):
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if fcntl is not None:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            else:
                # A byte far behind the text, so that others can read who holds it.
                os.lseek(self._file, 1 << 20, os.SEEK_SET)
                msvcrt.locking(self._file, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            holder = self._holder()
            os.close(self._file)
            raise BlockingIOError(
                f"{of} is being written by {holder}. Open it with read_only=True, or wait until that writer closes it."
            ) from error
        about = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        os.lseek(self._file, 0, os.SEEK_SET)
        os.ftruncate(self._file, 0)
        os.write(self._file, json.dumps(about).encode())

    def _holder(self) -> str:
        try:
            os.lseek(self._file, 0, os.SEEK_SET)
            about = json.loads(os.read(self._file, 4096))
            return f"process {about['pid']} on {about['host']} since {about['since']}"
        except (OSError, ValueError, KeyError):
            return "another process"

    def release(self) -> None:
        """Lets the next writer in."""
        if self._file is not None:
            if fcntl is None:
                os.lseek(self._file, 1 << 20, os.SEEK_SET)
                msvcrt.locking(self._file, msvcrt.LK_UNLCK, 1)
            os.close(self._file)
            self._file = None


__all__ = ["WriterLock"]
