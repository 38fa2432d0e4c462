"""Limits of a server: what a client may ask for, the memory that requests take, and the error beyond either."""

from __future__ import annotations

import ctypes
import threading
import time
from dataclasses import dataclass, fields


class Refused(Exception):
    """A request that is not answered.

    Args:
        status: the status code of the HTTP response.
        reason: one sentence for the client.
        retry_after: the seconds after which the client may ask again.
    """

    def __init__(self, status: int, reason: str, retry_after: float | None = None):
        # What a client sent may be part of the sentence, and not all of it can be written as UTF-8.
        super().__init__(reason.encode("utf-8", "backslashreplace").decode())
        if retry_after is None and status in (429, 503):
            retry_after = 1
        self.status, self.reason, self.retry_after = status, str(self), retry_after

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the response."""
        return {} if self.retry_after is None else {"Retry-After": str(max(1, round(self.retry_after)))}


@dataclass(frozen=True)
class ServingLimits:
    """Limits of a server. What exceeds one is refused with a 4xx status or 503, and other clients are not affected.

    Args:
        upload_bytes: size of a request's body (status 413).
        turns, parts, characters, images: how many of each a dialogue may have (422).
        pixels: number of pixels of an image as it is stored (422).
        request_pixels: number of pixels of all images of a request as they are decoded; a JPEG image is decoded at a
            reduced size (422).
        side: longer side of an image in pixels (422).
        aspect: longer side of an image divided by the shorter one (422).
        inputs: number of vectors that one request for embeddings asks for, or of documents that it ranks (422).
        filter_values: number of values of all conditions in `where` (422).
        tokens: length of a context, of which the latest tokens are kept; None for the model's own limit.
        batch_tokens: number of tokens of the contexts that the model reads together.
        top_k: number of hits of each kind (422).
        seconds: time from the end of the upload to the answer (504).
        header_seconds: time for the request line and the headers (the connection is closed).
        upload_seconds: time for the upload (408).
        waiting: number of requests that wait for the model (503).
        client_waiting: number of requests of one client that wait for the model (429).
        connections: number of open connections (503).
        client_connections: number of open connections of one client (429).
        memory_bytes: memory for the uploads and decoded images of all requests together (503); one client may use half
            of it (429).
    """

    upload_bytes: int = 20 * 2**20
    turns: int = 64
    parts: int = 512
    characters: int = 50_000
    images: int = 16
    pixels: int = 50_000_000
    request_pixels: int = 64_000_000
    side: int = 16_384
    aspect: int = 50
    inputs: int = 2048
    filter_values: int = 100
    tokens: int | None = None
    batch_tokens: int = 8192
    top_k: int = 100
    seconds: float = 30.0
    header_seconds: float = 10.0
    upload_seconds: float = 30.0
    waiting: int = 512
    client_waiting: int = 256
    connections: int = 1024
    client_connections: int = 256
    memory_bytes: int = 512 * 2**20

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not value > 0:
                raise ValueError(f"{field.name} must be a positive number, got {value!r}.")


class MemoryBudget:
    """A budget in bytes for the uploads and decoded images of all requests. One client may use half of it. It is not
    thread-safe."""

    def __init__(self, total: int):
        self.total, self.taken = total, 0
        self._clients: dict[str, int] = {}

    def take(self, client: str, count: int) -> None:
        """Takes bytes until `give`. Raises Refused: 429 when this client has too many, 503 when all have."""
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
    """Returns freed memory to the system, which glibc otherwise keeps for the process, after `least_bytes` and
    `seconds`."""

    def __init__(self, least_bytes: int = 64 * 2**20, seconds: float = 1.0):
        self.least_bytes, self.seconds = least_bytes, seconds
        self._freed, self._last, self._lock = 0, float("-inf"), threading.Lock()
        try:
            self._trim = ctypes.CDLL("libc.so.6").malloc_trim
        except (OSError, AttributeError):  # not glibc
            self._trim = None

    def freed(self, count: int) -> None:
        """Records freed bytes; thread-safe."""
        with self._lock:
            self._freed += count
            now = time.monotonic()
            if self._trim is None or self._freed < self.least_bytes or now - self._last < self.seconds:
                return
            self._freed, self._last = 0, now
        self._trim(0)
