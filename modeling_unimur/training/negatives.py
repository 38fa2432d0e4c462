"""Draws the hard negatives of a query."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

SAMPLERS = ("in_batch", "balanced", "unbalanced", "image_only", "text_only", "hard_in_batch")


@dataclass(frozen=True)
class Sampler:
    """One way to choose candidates.

    Args:
        name: `in_batch` (UniVL-DR's stage 1): the batch's positives. `balanced` (its stage 2): the positive, `images`
            and `texts` hard negatives, and nothing else; where one kind has too few, the other fills up. `unbalanced`:
            as many, of whatever kind. `image_only`, `text_only`: as many, of one kind. `hard_in_batch` (MARVEL): as
            `balanced`, and all documents of the batch are candidates of every query.
        images, texts: hard negatives of each kind a query (both 1 in the paper).

    Raises:
        ValueError: another name, or numbers below 0 or both 0.
    """

    name: str = "balanced"
    images: int = 1
    texts: int = 1

    def __post_init__(self) -> None:
        if self.name not in SAMPLERS:
            raise ValueError(f"sampler must be one of {SAMPLERS}, got {self.name!r}.")
        if self.images < 0 or self.texts < 0 or (self.hard and not self.images + self.texts):
            raise ValueError(
                f"The sampler {self.name} draws {self.images} image and {self.texts} text negatives: both must be "
                "non-negative integers, and not both 0."
            )

    @property
    def hard(self) -> bool:
        """Whether it draws hard negatives."""
        return self.name != "in_batch"

    @property
    def in_batch(self) -> bool:
        """Whether the batch's documents are candidates of every query."""
        return self.name in ("in_batch", "hard_in_batch")

    def draw(self, images: Sequence[str], texts: Sequence[str], rng: random.Random) -> list[str]:
        """Chooses among a query's hard negatives of each kind; fewer than asked where there are not as many."""
        if not self.hard:
            return []
        total = self.images + self.texts
        if self.name == "unbalanced":
            return _some([*images, *texts], total, rng)
        if self.name == "image_only":
            return _some(images, total, rng)
        if self.name == "text_only":
            return _some(texts, total, rng)
        images, texts = _some(images, total, rng), _some(texts, total, rng)
        missing_images, missing_texts = max(self.images - len(images), 0), max(self.texts - len(texts), 0)
        return images[: self.images + missing_texts] + texts[: self.texts + missing_images]


def _some(items: Sequence[str], count: int, rng: random.Random) -> list[str]:
    """The first of the shuffled items."""
    return rng.sample(list(items), min(count, len(items)))


__all__ = ["SAMPLERS", "Sampler"]
