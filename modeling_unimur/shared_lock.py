"""A lock that many readers share and one writer has alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class SharedLock:
    """Readers wait for writers only, and writers for all. A copy of it, and what a pickle of it becomes, is free."""

    def __init__(self):
        self._state = threading.Condition()
        self._readers, self._writers, self._writes = 0, 0, False  # _writers: those that wait or write

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Held by a reader."""
        with self._state:
            self._state.wait_for(lambda: not self._writers)
            self._readers += 1
        try:
            yield
        finally:
            with self._state:
                self._readers -= 1
                self._state.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Held by a writer."""
        with self._state:
            self._writers += 1
            self._state.wait_for(lambda: not self._readers and not self._writes)
            self._writes = True
        try:
            yield
        finally:
            with self._state:
                self._writers, self._writes = self._writers - 1, False
                self._state.notify_all()

    def __reduce__(self):
        return SharedLock, ()


__all__ = ["SharedLock"]
