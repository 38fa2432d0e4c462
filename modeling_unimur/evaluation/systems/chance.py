"""The chance level."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch

from .base import Gallery, Messages, System, Weights

_WIDTH = 32


class Chance(System):
    """A random order of the candidates, another one for every dialogue; the same in every run of a seed.

    Args:
        seed: of the order.
    """

    name = "chance"
    sees = "nothing"

    def __init__(self, seed: int = 0):
        self.seed = seed
        self.revision = f"seed {seed}"

    def _drawn(self, items: Sequence[str]) -> torch.Tensor:
        """Directions that are drawn by what an item is called."""
        rows = []
        for item in items:
            digest = hashlib.sha256(f"{self.seed} {item}".encode("utf-8", "surrogatepass")).digest()
            rows.append(np.random.default_rng(int.from_bytes(digest[:8], "big")).standard_normal(_WIDTH))
        return torch.tensor(np.array(rows, dtype=np.float32).reshape(-1, _WIDTH))

    def encode_candidates(self, gallery: Gallery, kind: str) -> torch.Tensor:
        return self._drawn(gallery.texts if kind == "text" else gallery.image_ids)

    def encode_queries(self, dialogues: Sequence[Messages]) -> torch.Tensor:
        return self._drawn([repr(messages) for messages in dialogues])

    def weights(self) -> Weights:
        return Weights(beyond=0, total=0)


__all__ = ["Chance"]
