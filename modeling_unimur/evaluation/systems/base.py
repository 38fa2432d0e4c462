"""What every system is given and must answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ...conversation import words_of_turn

KINDS = ("text", "image")
Messages = Sequence[dict]


@dataclass(frozen=True)
class Gallery:
    """The candidates.

    Args:
        texts: candidate texts.
        image_ids: of the candidate pictures.
        images: their files.
        image_words: their titles and tags, for systems that cannot see; empty where a picture has none.
    """

    texts: Sequence[str]
    image_ids: Sequence[str] = ()
    images: Sequence[str] = ()
    image_words: Sequence[str] = ()

    def __post_init__(self):
        if not len(self.image_ids) == len(self.images) == len(self.image_words):
            raise ValueError(
                f"{len(self.image_ids)} ids, {len(self.images)} images and words of {len(self.image_words)} do not "
                "agree: one of each an image."
            )

    def kinds(self) -> list[str]:
        """The kinds of which there are candidates."""
        return [kind for kind, items in (("text", self.texts), ("image", self.images)) if len(items)]


@dataclass(frozen=True)
class Weights:
    """What a system holds in memory, in bytes.

    Args:
        beyond: weights besides those of the dual encoder that made the index of pictures.
        total: all weights that it needs to answer and to add candidates.
    """

    beyond: int
    total: int


class RetrievalSystem(ABC):
    """One system.

    `index` once, `fit` where it learns (before `index`), then `encode_queries` and `scores` as often as wanted.

    Attributes:
        name: its row of a table.
        sees: what it reads of a dialogue, and of the candidates, in words.
    """

    name: str
    sees: str

    def fit(self, contexts: Sequence[Sequence[str]], targets: Sequence[str]) -> None:  # noqa: B027
        """Learns from dialogues, each the texts of its turns, and the text that each leads to. Most learn nothing."""

    @abstractmethod
    def index(self, gallery: Gallery) -> None:
        """Prepares the candidates."""

    @abstractmethod
    def encode_queries(self, dialogues: Sequence[Messages]) -> Any:
        """Dialogues, as lists of chat messages whose `content` is a list of parts, to what `scores` takes."""

    @abstractmethod
    def scores(self, queries: Any, kind: str) -> np.ndarray:
        """Scores `(dialogues, candidates of the kind)`; higher is better."""

    @abstractmethod
    def weights(self) -> Weights:
        """What it weighs."""

    @property
    def has_vectors(self) -> bool:
        """Whether its scores are products of the queries with vectors of the candidates."""
        return hasattr(self, "_candidates")

    def vectors(self, kind: str) -> torch.Tensor:
        """Those vectors `(candidates of the kind, width)`, of the candidates that are indexed."""
        return self._candidates[kind]


def words_of_dialogue(messages: Messages) -> str:
    """The words of all turns, a line each, without the pictures."""
    return "\n".join(words for words in map(words_of_turn, messages) if words)


def words_of_last_turn(messages: Messages) -> str:
    """The words of the last turn that has any."""
    return next((words for words in map(words_of_turn, reversed(messages)) if words), "")


def num_bytes(modules: Iterable[torch.nn.Module | None]) -> int:
    """Bytes of the weights of some modules; those that are None weigh nothing."""
    parameters = {id(p): p for module in modules if module is not None for p in module.parameters()}
    return sum(p.numel() * p.element_size() for p in parameters.values())


def megabytes(count: int) -> float:
    """Bytes as megabytes of 10^6."""
    return count / 1e6


__all__ = [
    "KINDS",
    "Gallery",
    "Messages",
    "RetrievalSystem",
    "Weights",
    "megabytes",
    "num_bytes",
    "words_of_dialogue",
    "words_of_last_turn",
    "words_of_turn",
]
