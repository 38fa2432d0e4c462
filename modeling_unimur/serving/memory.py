"""Memory that requests take: how much at a time, and that the system gets it back."""

from __future__ import annotations

import ctypes
import threading
import time

from .refusal import Refused


class MemoryBudget:
    """Bytes that uploads and decoded images of all requests may take together; used on one thread.

    Args:
        total: of all clients; one of them has half of it.
    """

    def __init__(self, total: int):
        self.total, self.taken = total, 0
        self._clients: dict[str, int] = {}

    def take(self, client: str, count: int) -> None:
        """Takes bytes until `give`.

        Raises:
            Refused: 429 when this client has too many, 503 when all have.
        """
        own = self._clients.get(client, 0) + count
        if own > self.total // 2:
            raise Refused(429, "Your requests that are being answered take too much memory: come back later.")
        if self.taken + count > self.total:
            raise Refused(503, "The requests that are being answered take too much memory: come back later.")
        self._clients[client] = own
        self.taken += count

    def give(self, client: str, count: int) -> None:
        """Gives bytes back."""
        self.taken -= count
        self._clients[client] -= count
        if not self._clients[client]:
            del self._clients[client]


class MemoryTrimmer:
    """Returns freed memory to the system, which glibc otherwise keeps for the process.

    Args:
        least_bytes: that have been freed since the last time.
        seconds: between two times.
    """

    def __init__(self, least_bytes: int = 64 * 2**20, seconds: float = 1.0):
        self.least_bytes, self.seconds = least_bytes, seconds
        self._freed, self._last, self._lock = 0, float("-inf"), threading.Lock()
        try:
            self._trim = ctypes.CDLL("libc.so.6").malloc_trim
        except (OSError, AttributeError):  # not glibc
            self._trim = None

    def freed(self, count: int) -> None:
        """Tells of bytes that have been freed; any thread may."""
        with self._lock:
            self._freed += count
            now = time.monotonic()
            if self._trim is None or self._freed < self.least_bytes or now - self._last < self.seconds:
                return
            self._freed, self._last = 0, now
        self._trim(0)


__all__ = ["MemoryBudget", "MemoryTrimmer"]
