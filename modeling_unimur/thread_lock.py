"""A lock that objects which are copied and sent to other processes can hold."""

from __future__ import annotations

import threading


class ThreadLock:
    """A reentrant lock. A copy of it, and what a pickle of it becomes, is a new lock, which nobody holds."""

    def __init__(self):
        self._lock = threading.RLock()

    def __enter__(self) -> ThreadLock:
        self._lock.acquire()
        return self

    def __exit__(self, *exception: object) -> None:
        self._lock.release()

    def __reduce__(self):
        return ThreadLock, ()


__all__ = ["ThreadLock"]
