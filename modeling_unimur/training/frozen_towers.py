"""The two frozen towers of a dual encoder, as cached features need them."""

import copy
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from ..data.row_store import StoredRows
from ..encoding.text_encoders import TextEncoder


class FrozenTowers(NamedTuple):
    """What runs, and what its outputs depend on.

    Args:
        image_tower, text_tower (`nn.Module`): hold every weight that the features depend on.
        encode_images (`Callable`): `pixel_values (batch, 3, height, width)` and further outputs of the image
            processor by name to `(batch, pooled_width)`, before the joint space.
        encode_texts (`TextEncoder`): a list of strings to `(texts, joint_width)`, not normalised.
    """

    image_tower: nn.Module
    encode_images: Callable[..., torch.Tensor]
    text_tower: nn.Module
    encode_texts: TextEncoder


def frozen_towers(clip, tokenizer, clean_text: "str | None" = None) -> FrozenTowers:
    """Returns the towers of a `CLIPModel`, `SiglipModel`, `Siglip2Model` or `OpenCLIPModel`, on their device.

    Raises:
        ValueError: for another kind of model.
    """
    if hasattr(clip, "project_image"):
        visual = clip.model.visual
        # open_clip's own text tower is no module of its own; then the whole model stands for it.
        image_tower, text_tower = getattr(visual, "trunk", visual), getattr(clip.model, "text", clip.model)
    elif hasattr(clip, "vision_model") and hasattr(clip, "text_model"):
        parts = [clip.text_model, getattr(clip, "text_projection", None)]
        image_tower, text_tower = clip.vision_model, nn.ModuleList([part for part in parts if part is not None])
    else:
        raise ValueError(
            f"{type(clip).__name__} is not a dual encoder whose frozen features can be kept: take a CLIPModel, "
            "SiglipModel, Siglip2Model or OpenCLIPModel."
        )

    def encode_images(pixel_values: torch.Tensor, **others: torch.Tensor) -> torch.Tensor:
        if hasattr(clip, "project_image"):
            return clip.pool_image(_placed(clip, pixel_values))
        # SigLIP 2 takes images of any shape, with a mask and their shapes; their names differ between versions.
        return clip.vision_model(*(_placed(clip, value) for value in (pixel_values, *others.values()))).pooler_output

    return FrozenTowers(image_tower, encode_images, text_tower, TextEncoder(clip, tokenizer, clean_text))


def project(clip, pooled: "torch.Tensor | StoredRows") -> "torch.Tensor | StoredRows":
    """Projects pooled features into the joint space of the dual encoder: `(images, width)`.

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


def _placed(clip, tensor: torch.Tensor) -> torch.Tensor:
    """Moves an input to the device of a dual encoder; numbers take its dtype."""
    tensor = tensor.to(next(clip.parameters()).device)
    return tensor.to(clip.dtype) if tensor.is_floating_point() else tensor


def _projection(clip) -> "nn.Module | None":
    if hasattr(clip, "project_image"):
        return None if clip.config.vision_width is None else clip.model.visual.head
    return getattr(clip, "visual_projection", None)
