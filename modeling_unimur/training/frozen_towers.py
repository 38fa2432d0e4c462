"""The two frozen towers of a dual encoder, as cached features need them."""

import copy
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from ..data.row_store import StoredRows
from ..text_cleaning import clean_texts


class FrozenTowers(NamedTuple):
    """What runs, and what its outputs depend on.

    Args:
        picture_tower, text_tower (`nn.Module`): hold every weight that the features depend on.
        encode_pictures (`Callable`): `pixel_values (batch, 3, height, width)` and further outputs of the image
            processor by name to `(batch, pooled_width)`, before the joint space.
        encode_texts (`TextEncoder`): a list of strings to `(texts, joint_width)`, not normalised.
    """

    picture_tower: nn.Module
    encode_pictures: Callable[..., torch.Tensor]
    text_tower: nn.Module
    encode_texts: "TextEncoder"


class TextEncoder:
    """Strings through a dual encoder's text tower, tokenised as `UniMuRProcessor.process_texts` does: padded to the
    longest, or for SigLIP to the full length and without a mask, and cut at the longest text that the tower reads.

    Args:
        clip: the dual encoder.
        tokenizer: its own.
        clean_text: as `UniMuRProcessor` takes it.
    """

    def __init__(self, clip, tokenizer, clean_text: "str | None" = None):
        self.clip, self.tokenizer, self.clean_text = clip, tokenizer, clean_text
        self.full = clip.config.model_type.startswith("siglip")
        lengths = (tokenizer.model_max_length, _text_positions(clip))
        limits = [length for length in lengths if length and length < 100_000]
        self.settings = {"padding": "max_length" if self.full else True, "truncation": bool(limits)}
        if limits:
            self.settings["max_length"] = min(limits)

    def __call__(self, lines: "list[str]") -> torch.Tensor:
        batch = self.tokenizer(clean_texts(lines, self.clean_text), return_tensors="pt", **self.settings)
        mask = None if self.full else _placed(self.clip, batch["attention_mask"])
        features = self.clip.get_text_features(_placed(self.clip, batch["input_ids"]), attention_mask=mask)
        return features if isinstance(features, torch.Tensor) else features.pooler_output

    @property
    def key(self) -> str:
        """What features depend on besides the weights."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        settings = f"{self.settings}" if self.clean_text is None else f"{self.settings}\n{self.clean_text}"
        if backend is None:
            return f"{type(self.tokenizer).__name__}\n{settings}"
        plain = copy.deepcopy(backend)  # a tokenizer notes its last padding and truncation in itself
        plain.no_truncation()
        plain.no_padding()
        return f"{plain.to_str()}\n{settings}"


def _placed(clip, tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.to(next(clip.parameters()).device)
    return tensor.to(clip.dtype) if tensor.is_floating_point() else tensor


def frozen_towers(clip, tokenizer, clean_text: "str | None" = None) -> FrozenTowers:
    """Towers of a `CLIPModel`, `SiglipModel`, `Siglip2Model` or `OpenCLIPModel`, on the device where they lie.

    Raises:
        ValueError: for another kind of model.
    """
    if hasattr(clip, "project_image"):
        visual = clip.model.visual
        # open_clip's own text tower is no module of its own; then the whole model stands for it.
        picture_tower, text_tower = getattr(visual, "trunk", visual), getattr(clip.model, "text", clip.model)
    elif hasattr(clip, "vision_model") and hasattr(clip, "text_model"):
        parts = [clip.text_model, getattr(clip, "text_projection", None)]
        picture_tower, text_tower = clip.vision_model, nn.ModuleList([part for part in parts if part is not None])
    else:
        raise ValueError(
            f"{type(clip).__name__} is no dual encoder whose frozen features can be kept: take a CLIPModel, "
            "SiglipModel, Siglip2Model or OpenCLIPModel."
        )

    def encode_pictures(pixel_values: torch.Tensor, **others: torch.Tensor) -> torch.Tensor:
        if hasattr(clip, "project_image"):
            return clip.get_image_features(_placed(clip, pixel_values)).pooled_features
        # SigLIP 2 takes pictures of any shape, with a mask and their shapes; their names differ between versions.
        return clip.vision_model(*(_placed(clip, value) for value in (pixel_values, *others.values()))).pooler_output

    return FrozenTowers(picture_tower, encode_pictures, text_tower, TextEncoder(clip, tokenizer, clean_text))


def _text_positions(clip) -> "int | None":
    """Longest text in tokens, where the configuration says so."""
    if hasattr(clip, "project_image"):
        return clip.config.context_length
    return getattr(clip.config.text_config, "max_position_embeddings", None)


def project(clip, pooled: "torch.Tensor | StoredRows") -> "torch.Tensor | StoredRows":
    """Pooled features into the joint space of the dual encoder `(pictures, width)`.

    Rows on disk stay there: they are projected when they are gathered, by a copy of the projection's present weights.
    """
    if isinstance(pooled, StoredRows):
        layer = _projection(clip)
        if layer is None:
            return pooled
        layer = copy.deepcopy(layer).cpu().float().requires_grad_(False).eval()
        return pooled.map(layer, clip.config.projection_dim)
    layer = _projection(clip)
    if layer is None:
        return pooled
    weight = next(layer.parameters(), pooled)
    return layer(pooled.to(weight.device, weight.dtype)).to(pooled.device)


def _projection(clip) -> "nn.Module | None":
    if hasattr(clip, "project_image"):
        return None if clip.config.vision_width is None else clip.model.visual.head
    return getattr(clip, "visual_projection", None)


__all__ = ["FrozenTowers", "TextEncoder", "frozen_towers", "project"]
