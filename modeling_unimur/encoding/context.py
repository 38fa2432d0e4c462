"""The context of an image: the texts that stand beside it, such as the passages of its section in a manual.

A figure's title ("Example") often says less than the section around it, so that no question finds it. With a context,
an image's vector has a share of the texts of its group.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from .manifest import Manifest

_CHOICE, _DIGESTS = "context", "context digests"


def with_context(vectors: np.ndarray, is_image: np.ndarray, groups: Sequence[str | None], weight: float) -> np.ndarray:
    """Adds to each image `weight` times the mean direction of the texts of its group.

    Args:
        vectors (`(documents, width)`): unit vectors.
        is_image (`(documents,)`): which documents are images.
        groups: name of each document's group; None or `""` for one without a group.
        weight: weight of the context beside the image; 0 for none.

    Returns:
        `np.ndarray`: unit vectors of the same shape. Texts, and images whose group has no text, are as they were.
    """
    numbers: dict[str, int] = {}
    places = np.array([numbers.setdefault(group, len(numbers)) if group else -1 for group in groups], dtype=np.int64)
    sums = np.zeros((len(numbers), vectors.shape[1]), np.float32)
    told = ~is_image & (places >= 0)
    np.add.at(sums, places[told], vectors[told])
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    sums = np.divide(sums, lengths, out=np.zeros_like(sums), where=lengths > 0)
    found, shown = vectors.copy(), is_image & (places >= 0)
    found[shown] += weight * sums[places[shown]]
    lengths = np.linalg.norm(found, axis=1, keepdims=True)
    changed = shown[:, None] & (lengths > 0)
    return np.divide(found, lengths, out=found, where=changed)


def check_context(context: tuple[str, float]) -> tuple[str, float]:
    """Returns a field of payloads and a weight. Raises ValueError for what is not."""
    pair = tuple(context) if isinstance(context, (tuple, list)) else ()
    numbers = pair[1:] if len(pair) == 2 and isinstance(pair[0], str) and pair[0] else ()
    if not any(isinstance(one, (int, float)) and not isinstance(one, bool) and 0 <= one < np.inf for one in numbers):
        raise ValueError(f"context must be a field of payloads and a weight of 0 or more, got {context!r:.60}.")
    return pair


class Contexts:
    """The texts beside each image of an index: those with the same text in a field of their payloads.

    Args:
        manifest: manifest of the index; it keeps the choice of an earlier run.
        vectors: gives those of some keys `(keys, width)`.
        choice: field and weight for the index from now on; None for that of the earlier runs.
    """

    def __init__(
        self,
        manifest: Manifest,
        vectors: Callable[[Sequence[bytes]], torch.Tensor],
        choice: tuple[str, float] | None = None,
    ):
        self.manifest, self.vectors = manifest, vectors
        known = manifest.fact(_CHOICE, None if choice is None else json.dumps(choice))
        self.field, self.weight = json.loads(known) if known else ("", 0.0)
        self.keys: dict[str, list[bytes]] = {}
        for _, key, payload in manifest.held("text") if self.weight else ():
            if (group := self._group(json.loads(payload))) is not None:
                self.keys.setdefault(group, []).append(key)

    def _group(self, payload: Mapping) -> str | None:
        value = payload.get(self.field)
        return value if isinstance(value, str) and value else None

    def outdate(self) -> None:
        """Marks the images of the index whose texts, or their weight, have changed since `remember`."""
        known, digests = json.loads(self.manifest.fact(_DIGESTS) or "{}"), self._digests()
        changed = {group for group in {*known, *digests} if known.get(group) != digests.get(group)}
        if changed:
            images = ((name, json.loads(payload).values()) for name, _, payload in self.manifest.held("image"))
            # By any field: it may be another one than before.
            self.manifest.outdate(
                "image",
                [name for name, values in images if any(isinstance(one, str) and one in changed for one in values)],
            )

    def remember(self) -> None:
        """Notes that the index has the contexts as they are now."""
        digests = self._digests()
        if digests or self.manifest.fact(_DIGESTS):
            self.manifest.fact(_DIGESTS, json.dumps(digests))

    def _digests(self) -> dict[str, str]:
        start = json.dumps([self.field, self.weight]).encode()
        return {
            group: hashlib.blake2b(start + b"".join(sorted(keys)), digest_size=8).hexdigest()
            for group, keys in self.keys.items()
        }

    def add_to(self, images: torch.Tensor, payloads: Sequence[Mapping]) -> torch.Tensor:
        """Images with their contexts.

        Args:
            images (`(images, width)`): unit vectors.
            payloads: payloads of the same images.
        """
        groups = [self._group(payload) for payload in payloads]
        texts = [(group, key) for group in dict.fromkeys(groups) for key in self.keys.get(group, ())]
        if not texts:
            return images
        vectors = torch.cat([self.vectors([key for _, key in texts]).float(), images.float()]).numpy()
        is_image = np.arange(len(vectors)) >= len(texts)
        found = with_context(vectors, is_image, [*(group for group, _ in texts), *groups], self.weight)
        return torch.from_numpy(found[len(texts) :])
