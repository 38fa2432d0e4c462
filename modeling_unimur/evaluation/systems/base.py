"""The interface of all systems."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ...conversation import words_of_turn
from ...memory_index import Coherence

KINDS = ("text", "image")
# One index of texts and images.
BOTH = "both"
Messages = Sequence[dict]


@dataclass(frozen=True)
class Gallery:
    """The candidates.

    Args:
        texts: candidate texts.
        image_ids: ids of the candidate images.
        images: their files.
        image_words: their titles and tags, for systems that cannot see; empty where an image has none.
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
        """Returns the kinds of which there are candidates."""
        return [kind for kind, items in (("text", self.texts), ("image", self.images)) if len(items)]


@dataclass(frozen=True)
class Weights:
    """The bytes of a system's weights: `beyond` those of the dual encoder that made the index of images, and in
    `total`."""

    beyond: int
    total: int


class System(ABC):
    """A system under test: it encodes dialogues and candidates, and scores candidates for dialogues.

    `fit` where it learns; then `encode_candidates` of each kind, `encode_queries` and `scores`. A system keeps no
    candidates: whoever encodes them passes them to `scores`.

    Attributes:
        name: its row of a table.
        sees: what it reads of a dialogue, and of the candidates, in words.
        kinds: kinds of candidates that it can rank.
        has_vectors: whether queries and candidates are vectors `(rows, width)`, and scores their products.
        in_dual_encoder_space: whether these are vectors of a CLIP-like model's joint space.
        predicts_ret: whether `encode_contexts` tells how likely an image follows.
        scores_answers: whether its `model` and `processor` score answers by their likelihood (`AnswerScorer`).
        image_threshold: score from which on it returns an image, if it has one.
        coherence: options of its coherent replies, if it has any.
        source, revision: where its weights come from, and what tells one state of them from another; None where it
            has none.
    """

    name: str
    sees: str
    kinds: tuple[str, ...] = KINDS
    has_vectors: bool = True
    in_dual_encoder_space: bool = False
    predicts_ret: bool = False
    scores_answers: bool = False
    image_threshold: float | None = None
    coherence: Coherence | None = None
    source: str | None = None
    revision: str | None = None

    def fit(self, contexts: Sequence[Sequence[str]], targets: Sequence[str]) -> None:  # noqa: B027
        """Fits the system to dialogues (the texts of their turns) and target texts. Most systems need no fitting."""

    @abstractmethod
    def encode_candidates(self, gallery: Gallery, kind: str) -> Any:
        """Encodes the candidates of a kind for `scores`: `(candidates, width)` for a system with vectors."""

    @abstractmethod
    def encode_queries(self, dialogues: Sequence[Messages]) -> Any:
        """Encodes dialogues for `scores`. A dialogue is a list of chat messages whose `content` is a list of parts."""

    def encode_contexts(self, groups: Sequence[Sequence[Messages]]) -> tuple[Any, np.ndarray | None]:
        """Encodes several contexts of each dialogue, dialogue by dialogue.

        Returns:
            the queries, and with `predicts_ret` the logarithm of the probability of an image `(contexts,)`, else None.
        """
        return self.encode_queries([context for group in groups for context in group]), None

    def scores(self, queries: Any, candidates: Mapping[str, Any], kind: str) -> np.ndarray:
        """Returns scores `(dialogues, candidates of the kind)`; higher is better. `candidates` are those of every
        kind."""
        return np.asarray(queries) @ np.asarray(candidates[kind]).T

    @abstractmethod
    def weights(self) -> Weights:
        """Returns the size of its weights."""


def words_of_last_turn(messages: Messages) -> str:
    """Returns the words of the last turn that has any."""
    return next((words for words in map(words_of_turn, reversed(messages)) if words), "")


def num_bytes(modules: Iterable[torch.nn.Module | None]) -> int:
    """Returns the bytes of the weights of some modules; None counts nothing."""
    parameters = {id(p): p for module in modules if module is not None for p in module.parameters()}
    return sum(p.numel() * p.element_size() for p in parameters.values())


def megabytes(count: int) -> float:
    """Converts bytes to megabytes of 10^6."""
    return count / 1e6
