"""How much a client may ask for."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class ServingLimits:
    """Bounds of a request; beyond them it is refused, and the others are not affected.

    Args:
        upload_bytes: of a request's body (status 413).
        turns, characters, pictures: of a dialogue (422).
        pixels: of a picture (422).
        tokens: of a context; the latest are kept. None for the model's own bound.
        top_k: hits of each kind (422).
        seconds: from the end of the upload to the answer (504).
        upload_seconds: for the upload (408).
        waiting: requests that wait for the model; further ones are to come back later (503).
    """

    upload_bytes: int = 20 * 2**20
    turns: int = 64
    characters: int = 50_000
    pictures: int = 16
    pixels: int = 50_000_000
    tokens: int | None = None
    top_k: int = 100
    seconds: float = 30.0
    upload_seconds: float = 30.0
    waiting: int = 512

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not value > 0:
                raise ValueError(f"{field.name} is a number above 0, not {value!r}.")


__all__ = ["ServingLimits"]
