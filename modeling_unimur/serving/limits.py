"""How much a client may ask for."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class ServingLimits:
    """Limits of a server. What exceeds one is refused with a 4xx status or 503, and other clients are not affected.

    Args:
        upload_bytes: of a request's body (status 413).
        turns, parts, characters, images: of a dialogue (422).
        pixels: of an image as it is stored (422).
        request_pixels: of all images of a request as they are decoded: a JPEG image at a reduced size (422).
        side: of an image, in pixels (422).
        aspect: the longer side of an image divided by the shorter one (422).
        inputs: vectors that one request for embeddings asks for, or documents that it ranks (422).
        filter_values: values of all conditions in `where` (422).
        tokens: of a context; the latest are kept. None for the model's own limit.
        batch_tokens: of the contexts that the model reads together.
        top_k: hits of each kind (422).
        seconds: from the end of the upload to the answer (504).
        header_seconds: for the request line and the headers (the connection is closed).
        upload_seconds: for the upload (408).
        waiting: requests that wait for the model (503).
        client_waiting: requests of one client that wait for the model (429).
        connections: open connections (503).
        client_connections: open connections of one client (429).
        memory_bytes: uploads and decoded images of all requests together (503); one client has half of it (429).
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


__all__ = ["ServingLimits"]
