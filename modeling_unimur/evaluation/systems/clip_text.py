"""The dual encoder's own text tower as the query, plain and behind a linear map."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional as F

from .base import Gallery, Messages, RetrievalSystem, Weights, words_of_dialogue, words_of_last_turn
from .clip_space import ClipSpace
from .ridge import RidgeMap, fit_ridge


class ClipText(RetrievalSystem):
    """CLIP-T of the dialogue's words.

    Args:
        space: of the dual encoder.
        last_turn: whether to read the last turn that has words, and not the whole dialogue.
    """

    def __init__(self, space: ClipSpace, last_turn: bool = False):
        self.space, self.last_turn = space, last_turn
        self.name = "CLIP-T, last turn" if last_turn else "CLIP-T, whole dialogue"
        part = "the last turn that has words" if last_turn else "all turns"
        self.sees = f"the words of {part} (the latest that its text tower holds), no pictures between them; candidates"
        self.sees += " by the dual encoder's vectors"
        self._candidates: dict[str, torch.Tensor] = {}

    def index(self, gallery: Gallery) -> None:
        found = self.space.candidates(gallery)
        self._candidates = {kind: F.normalize(found[kind], dim=-1) for kind in ("text", "image")}

    def encode_queries(self, dialogues: Sequence[Messages]) -> torch.Tensor:
        read = words_of_last_turn if self.last_turn else words_of_dialogue
        return self.space.texts([read(messages) for messages in dialogues], latest=True)

    def scores(self, queries: torch.Tensor, kind: str) -> np.ndarray:
        return (queries @ self._candidates[kind].T).numpy()

    def weights(self) -> Weights:
        return Weights(beyond=0, total=self.space.weight_bytes)


class ClipTextLinear(ClipText):
    """CLIP-T of the whole dialogue, plus a linear map of it that was fitted, in closed form, to lead from dialogues to
    CLIP-T of what they are about. The penalty draws it to CLIP-T itself, so that little text does little harm.

    Args:
        space: of the dual encoder.
    """

    def __init__(self, space: ClipSpace):
        super().__init__(space)
        self.name = "CLIP-T + linear map"
        self.fitted_on = 0
        self.map: RidgeMap | None = None

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
        self.map, self.fitted_on = fit_ridge(inputs, wanted, groups, offsets=inputs), len(contexts)
        self.sees = f"as CLIP-T, whole dialogue; its map was fitted on {self.fitted_on:,} dialogues and glosses"

    def encode_queries(self, dialogues: Sequence[Messages]) -> torch.Tensor:
        if self.map is None:
            raise ValueError("The linear map is not fitted: call fit(contexts, targets) first.")
        plain = super().encode_queries(dialogues)
        return F.normalize(plain + self.map(plain), dim=-1)

    def weights(self) -> Weights:
        own = 0 if self.map is None else 4 * (self.map.weight.numel() + self.map.bias.numel())
        return Weights(beyond=own, total=self.space.weight_bytes + own)


__all__ = ["ClipText", "ClipTextLinear"]
