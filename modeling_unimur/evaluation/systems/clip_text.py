"""The space of a model's frozen dual encoder, and its text tower as the query, with or without a linear map."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.nn import functional as F

from ...conversation import words_of_dialogue
from ...encoding.encoder import Encoder
from ...image_loading import load_image
from .base import Gallery, Messages, System, Weights, num_bytes, words_of_last_turn

_IMAGES = 16


class ClipSpace:
    """The embeddings of texts and images by a frozen dual encoder.

    Args:
        model (`UniMuRModel`), processor (`UniMuRProcessor`): whose dual encoder it is.

    Raises:
        ValueError: for a model without a dual encoder.
    """

    def __init__(self, model, processor):
        if model.clip is None:
            raise ValueError(
                "This model has no dual encoder: it queries ready embeddings, and no gallery of files can be embedded "
                "for it. Compare a model with a dual encoder, such as unimur-mini."
            )
        self.model, self.processor = model, processor
        self.encoder, self._kept = Encoder(model, processor, progress=True), {}

    @property
    def weight_bytes(self) -> int:
        """The bytes of the dual encoder."""
        return num_bytes([self.model.clip])

    def texts(self, texts: Sequence[str], latest: bool = False, desc: str | None = None) -> torch.Tensor:
        """Encodes texts as unit vectors `(texts, width)`.

        Args:
            texts: in any order; they run in batches of like length.
            latest: keep the end of a text that is longer than the tower reads, not its beginning.
            desc: text of a progress bar.
        """
        return F.normalize(self.encoder.encode_texts(texts, "latest" if latest else "first", desc), dim=-1)

    def candidates(self, gallery: Gallery) -> dict[str, torch.Tensor]:
        """Returns the dual encoder's outputs before any trained map: `text (texts, width)`, `image (images, width)`
        and `pooled (images, pooled width)`. They are computed once per gallery."""
        if self._kept.get("gallery") is not gallery:
            found = self.encoder.encode_images(gallery.images, load_image, _IMAGES, with_pooled=True)
            texts = self.texts(gallery.texts, desc="Embedding texts")
            self._kept = {"gallery": gallery, "text": texts, "image": found.vectors, "pooled": found.pooled}
        return self._kept


class ClipText(System):
    """Ranks by CLIP-T of the dialogue's words: of the whole dialogue, or of the last turn that has any."""

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


class ClipTextAnchor(ClipText):
    """Ranks by CLIP-T of the whole dialogue plus that of its last turn: the anchor of an anchored query without a
    language model."""

    def __init__(self, space: ClipSpace):
        super().__init__(space)
        self.name = "CLIP-T, whole + last"
        self.sees = "the words of all turns and those of the last turn that has words (the latest that its text tower"
        self.sees += " holds of each), no images between them; candidates by the dual encoder's vectors"

    def encode_queries(self, dialogues: Sequence[Messages]) -> torch.Tensor:
        last = self.space.texts([words_of_last_turn(messages) for messages in dialogues], latest=True)
        return F.normalize(super().encode_queries(dialogues) + last, dim=-1)


class ClipTextLinear(ClipText):
    """Ranks by CLIP-T of the whole dialogue plus a linear map of it, which is fitted in closed form to lead from
    dialogues to CLIP-T of their targets. The penalty draws the sum towards CLIP-T itself, so that a fit on little text
    does little harm.

    Args:
        space: space of the dual encoder.
        fitting: `training.readout_fit.fit_ridge`, or what takes inputs, targets, groups and `offsets` as it does.
    """

    def __init__(self, space: ClipSpace, fitting: Callable):
        super().__init__(space)
        self.fitting = fitting
        self.name = "CLIP-T + linear map"
        self.fitted_on = 0
        self.map = None

    def fit(self, contexts: Sequence[Sequence[str]], targets: Sequence[str]) -> None:
        """Fits the map from the texts of each dialogue's turns to the text that each leads to."""
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
