"""The dual encoder's own text tower as the query, plain and behind a linear map."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch.nn import functional as F

from .base import Gallery, Messages, System, Weights, num_bytes, words_of_dialogue, words_of_last_turn
from .clip_space import ClipSpace


class ClipText(System):
    """CLIP-T of the dialogue's words.

    Args:
        space: of the dual encoder.
        last_turn: whether to read the last turn that has words, and not the whole dialogue.
    """

    in_dual_encoder_space = True

    def __init__(self, space: ClipSpace, last_turn: bool = False):
        self.space, self.last_turn = space, last_turn
        self.name = "CLIP-T, last turn" if last_turn else "CLIP-T, whole dialogue"
        part = "the last turn that has words" if last_turn else "all turns"
        self.sees = f"the words of {part} (the latest that its text tower holds), no images between them; candidates"
        self.sees += " by the dual encoder's vectors"

    def encode_candidates(self, gallery: Gallery, kind: str) -> torch.Tensor:
        return F.normalize(self.space.candidates(gallery)[kind], dim=-1)

    def encode_queries(self, dialogues: Sequence[Messages]) -> torch.Tensor:
        read = words_of_last_turn if self.last_turn else words_of_dialogue
        return self.space.texts([read(messages) for messages in dialogues], latest=True)

    def weights(self) -> Weights:
        return Weights(beyond=0, total=self.space.weight_bytes)


# From vectors of whole dialogues, of last turns and of targets, each `(pairs, width)`, and groups `(pairs,)`, equal
# where a target is right: what turns the first two into queries.
AnchorFit = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.nn.Module]


class ClipTextAnchor(ClipText):
    """CLIP-T of the whole dialogue and of its last turn together: the anchor of an anchored query without a language
    model.

    Args:
        space: of the dual encoder.
        fitting: how the two are joined, learned by `fit`; by default they are added.
    """

    def __init__(self, space: ClipSpace, fitting: AnchorFit | None = None):
        super().__init__(space)
        self.fitting, self.joined = fitting, None
        self.name = "CLIP-T, whole + last" if fitting is None else "CLIP-T, fitted anchor"
        self.sees = "the words of all turns and those of the last turn that has words (the latest that its text tower"
        self.sees += " holds of each), no images between them; candidates by the dual encoder's vectors"

    def fit(self, contexts: Sequence[Sequence[str]], targets: Sequence[str]) -> None:
        """Learns how the two vectors are joined, where `fitting` was given.

        Args:
            contexts: the texts of each dialogue's turns.
            targets: the text that each leads to.
        """
        if self.fitting is None:
            return
        turns = [[words for words in context if words.strip()] or [""] for context in contexts]
        whole, last = (
            self.space.texts(texts, latest=True, desc="CLIP-T of dialogues")
            for texts in (["\n".join(words) for words in turns], [words[-1] for words in turns])
        )
        distinct = list(dict.fromkeys(targets))
        numbers = {target: number for number, target in enumerate(distinct)}
        groups = torch.tensor([numbers[target] for target in targets])
        wanted = self.space.texts(distinct, desc="CLIP-T of targets")[groups]
        self.joined = self.fitting(whole, last, wanted, groups)

    @torch.inference_mode()
    def encode_queries(self, dialogues: Sequence[Messages]) -> torch.Tensor:
        if self.fitting is not None and self.joined is None:
            raise ValueError("The anchor is not fitted: call fit(contexts, targets) first.")
        whole, last = (
            self.space.texts([read(messages) for messages in dialogues], latest=True)
            for read in (words_of_dialogue, words_of_last_turn)
        )
        return F.normalize(whole + last if self.joined is None else self.joined(whole, last), dim=-1)

    def weights(self) -> Weights:
        own = num_bytes([self.joined])
        return Weights(beyond=own, total=self.space.weight_bytes + own)


class LinearMap(Protocol):
    """`inputs @ weight.T + bias`, as `training.readout_fit.RidgeMap`."""

    weight: torch.Tensor
    bias: torch.Tensor

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor: ...


class ClipTextLinear(ClipText):
    """CLIP-T of the whole dialogue, plus a linear map of it that was fitted, in closed form, to lead from dialogues to
    CLIP-T of what they are about. The penalty draws it to CLIP-T itself, so that little text does little harm.

    Args:
        space: of the dual encoder.
        fitting: `training.readout_fit.fit_ridge`, or what takes inputs, targets, groups and `offsets` as it does.
    """

    def __init__(self, space: ClipSpace, fitting: Callable[..., LinearMap]):
        super().__init__(space)
        self.fitting = fitting
        self.name = "CLIP-T + linear map"
        self.fitted_on = 0
        self.map: LinearMap | None = None

    def fit(self, contexts: Sequence[Sequence[str]], targets: Sequence[str]) -> None:
        """Fits the map.

        Args:
            contexts: the texts of each dialogue's turns.
            targets: the text that each leads to.
        """
        inputs = self.space.texts(["\n".join(turns) for turns in contexts], latest=True, desc="CLIP-T of dialogues")
        distinct = list(dict.fromkeys(targets))
        numbers = {target: number for number, target in enumerate(distinct)}
        groups = torch.tensor([numbers[target] for target in targets])
        wanted = self.space.texts(distinct, desc="CLIP-T of targets")[groups]
        self.map, self.fitted_on = self.fitting(inputs, wanted, groups, offsets=inputs), len(contexts)
        self.sees = f"as CLIP-T, whole dialogue; its map was fitted on {self.fitted_on:,} dialogues and glosses"

    def encode_queries(self, dialogues: Sequence[Messages]) -> torch.Tensor:
        if self.map is None:
            raise ValueError("The linear map is not fitted: call fit(contexts, targets) first.")
        plain = super().encode_queries(dialogues)
        return F.normalize(plain + self.map(plain), dim=-1)

    def weights(self) -> Weights:
        own = 0 if self.map is None else 4 * (self.map.weight.numel() + self.map.bias.numel())
        return Weights(beyond=own, total=self.space.weight_bytes + own)


# Those that learn nothing, by their names on the command line.
CLIP_TEXTS: dict[str, Callable[[ClipSpace], ClipText]] = {
    "clip-last": lambda space: ClipText(space, last_turn=True),
    "clip-whole": ClipText,
    "clip-anchor": ClipTextAnchor,
}


__all__ = ["CLIP_TEXTS", "AnchorFit", "ClipText", "ClipTextAnchor", "ClipTextLinear"]
