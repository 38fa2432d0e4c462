"""A frozen dual encoder whose image projection trains, with a linear map on its text vectors."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ..contrastive_loss import contrastive_loss
from ..modeling_open_clip import OpenCLIPModel, OpenCLIPOutput, PictureHead
from .frozen_towers import project


class CaptionedImageModel(nn.Module):
    """What task `clip` trains on captioned images; `fold` makes an ordinary dual encoder of it again.

    Args:
        clip: a `CLIPModel` or `OpenCLIPModel`, which is frozen here but for its image projection.
        image_head (`dict`, *optional*): arguments of a new `PictureHead` in place of the projection of pooled features
            that an open_clip model has; `classes` are those of the classifier in its present head. By default the
            present projection trains further.

    Raises:
        ValueError: the model is of another kind.
    """

    def __init__(self, clip: nn.Module, image_head: dict | None = None):
        super().__init__()
        clip.requires_grad_(False)
        self.clip = clip
        self.image_projection_parts = [_image_projection(clip, image_head)]  # in a list: it is registered in `clip`
        self._text_place = _text_projection(clip)
        for name, parameter in self.image_projection_parts[0].named_parameters():
            parameter.requires_grad_(not name.startswith("classifier."))
        clip.logit_scale.requires_grad_(True)
        width = clip.config.projection_dim
        self.text_map = nn.Linear(width, width, bias=False)
        nn.init.eye_(self.text_map.weight)

    def image_embeds(self, pooled_features: torch.Tensor) -> torch.Tensor:
        """Pooled features `(images, pooled_width)` to normalised vectors `(images, width)`."""
        return F.normalize(project(self.clip, pooled_features), dim=-1)

    def text_embeds(self, text_features: torch.Tensor) -> torch.Tensor:
        """Output of the frozen text tower `(texts, width)` to normalised vectors `(texts, width)`."""
        return F.normalize(self.text_map(text_features), dim=-1)

    def forward(
        self,
        pooled_features: torch.Tensor,
        text_features: torch.Tensor,
        target_ids: torch.Tensor | None = None,
        return_loss: bool = True,
    ) -> OpenCLIPOutput:
        """Row i of both sides belongs together, and so do rows with equal `target_ids (batch,)`."""
        images, texts = self.image_embeds(pooled_features), self.text_embeds(text_features)
        scale = self.clip.logit_scale.exp()
        loss = contrastive_loss(texts, images, scale, target_ids) if return_loss else None
        return OpenCLIPOutput(loss=loss, image_embeds=images, text_embeds=texts, logit_scale=scale)

    @torch.no_grad()
    def fold(self) -> nn.Module:
        """The dual encoder, with the text map merged into its text projection."""
        owner, name = self._text_place
        weight, layer = self.text_map.weight, getattr(owner, name)
        if isinstance(layer, nn.Identity):  # of open_clip, whose configuration has a name for it
            setattr(owner, name, nn.Linear(*weight.shape, bias=False).to(weight))
            getattr(owner, name).weight.copy_(weight)
            self.clip.config.model_cfg["text_cfg"]["hf_proj_type"] = "linear"
        elif isinstance(layer, nn.Parameter):  # of open_clip, multiplied from the right
            layer.copy_(layer @ weight.T)
        else:
            layer.weight.copy_(weight @ layer.weight)
            if layer.bias is not None:
                layer.bias.copy_(weight @ layer.bias)
        return self.clip.eval()


def _image_projection(clip: nn.Module, image_head: dict | None) -> nn.Module:
    projection = getattr(clip, "visual_projection", None)
    if isinstance(clip, OpenCLIPModel) and clip.config.vision_width is not None:
        if image_head is not None:
            _replace_head(clip, image_head)
        projection = clip.model.visual.head
    if projection is None:
        raise ValueError(
            f"{type(clip).__name__} has no image projection apart from its tower that could be trained: take a "
            "CLIPModel, or an open_clip model with a timm image tower."
        )
    return projection


@torch.no_grad()
def _replace_head(clip: OpenCLIPModel, arguments: dict) -> None:
    old = clip.model.visual.head
    classifier = getattr(old, "classifier", None)
    if classifier is not None:
        arguments = {**arguments, "classes": classifier.out_features}
    head = PictureHead(clip.config.vision_width, clip.config.projection_dim, **arguments)
    if classifier is not None:
        head.classifier = classifier
        head.class_vectors.copy_(old.class_vectors if old.gate is None else old.zero_shot_vectors)
    clip.model.visual.head, clip.config.picture_head = head, dict(arguments)


def _text_projection(clip: nn.Module) -> tuple[nn.Module, str]:
    """The module that has the last layer of the text side, and its name there."""
    if not isinstance(clip, OpenCLIPModel):
        return clip, "text_projection"
    text = getattr(clip.model, "text", clip.model)
    if not hasattr(text, "proj"):
        return text, "text_projection"
    last = text.proj
    return (last, str(len(last) - 1)) if isinstance(last, nn.Sequential) else (text, "proj")


__all__ = ["CaptionedImageModel"]
