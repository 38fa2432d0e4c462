"""UniMuR as a system."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch

from ...encoding.encoder import Encoder
from ...memory_index import Coherence
from ..turn_encoding import TurnEncoder
from .base import Gallery, Messages, System, Weights, num_bytes
from .clip_text import ClipSpace

_BATCH = 8


class UniMuR(System):
    """Ranks by the unified embedding, which the language model reads at [RET]."""

    in_dual_encoder_space = True
    scores_answers = True
    sees = "the whole dialogue, images in it too; candidates by the dual encoder's vectors"

    def __init__(self, space: ClipSpace, name: str = "UniMuR"):
        self.space, self.name = space, name
        self.model, self.processor = space.model, space.processor
        config = self.model.config
        if config.joint_width != config.embedding_width and not config.map_text_targets:
            self.kinds = ("image",)  # heads that know images alone (FROMAGe's)
        self.predicts_ret = config.ret_token_loss_weight > 0
        self.image_threshold, self.coherence = config.image_threshold, Coherence.of(config)

    @functools.cached_property
    def _contexts(self) -> TurnEncoder:
        return TurnEncoder(self.model, self.processor)

    @torch.inference_mode()
    def encode_candidates(self, gallery: Gallery, kind: str) -> torch.Tensor:
        found, config, heads = self.space.candidates(gallery), self.model.config, self.model.heads
        pooled = config.map_image_targets and config.visual_feature == "pooled"
        target, part = (heads.text_target, "text") if kind == "text" else (heads.image_target, "image")
        vectors = found["pooled" if kind == "image" and pooled else part].to(self.model.device)
        return target(vectors).float().cpu()

    def encode_queries(self, dialogues: Sequence[Messages]) -> torch.Tensor:
        return Encoder(self.model, self.processor).encode_queries(dialogues, _BATCH)

    def encode_contexts(self, groups: Sequence[Sequence[Messages]]) -> tuple[torch.Tensor, np.ndarray | None]:
        """Encodes the contexts of a dialogue in one pass over their shared prefix."""
        if not self.predicts_ret:
            return self._contexts.encode(groups), None
        vectors, likely = self._contexts.encode_with_ret(groups)
        return vectors, likely.numpy()

    def weights(self) -> Weights:
        beyond = num_bytes([self.model.language_model, self.model.heads])
        return Weights(beyond=beyond, total=beyond + self.space.weight_bytes)
