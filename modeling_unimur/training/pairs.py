"""Pictures and the texts that belong to them, with the frozen towers' features at hand."""

import logging
from dataclasses import dataclass

import torch

from ..data.captioned_pictures import load_captioned_pictures, split_by_title, title_group
from .caption_forms import caption_forms
from .frozen_features import picture_features, text_features

logger = logging.getLogger(__name__)


@dataclass
class PicturePairs:
    """One split.

    Args:
        paths, titles (`list[str]`): one a picture.
        groups (`torch.Tensor` of shape `(pictures,)`): pictures with one title group are right for each other.
        pooled (`torch.Tensor` of shape `(pictures, pooled_width)`): the frozen image tower's output.
        texts (`list[str]`), owners (`torch.Tensor` of shape `(texts,)`): every caption form and its picture.
        text_features (`torch.Tensor` of shape `(texts, width)`): the frozen text tower's output.
        title_rows (`torch.Tensor` of shape `(pictures,)`): which text is the picture's title.
    """

    paths: list
    titles: list
    groups: torch.Tensor
    pooled: torch.Tensor
    texts: list
    owners: torch.Tensor
    text_features: torch.Tensor
    title_rows: torch.Tensor


def load_pairs(clip, image_processor, tokenizer, sources: "list[str]") -> "dict[str, PicturePairs]":
    """The installable pictures, split by title, with features of a dual encoder's frozen towers.

    Args:
        clip: an `OpenCLIPModel` or `CLIPModel`; what it does before its picture projection is cached.
        image_processor, tokenizer: its own.
        sources: names out of `data.captioned_pictures.SOURCES`.

    Returns:
        `dict`: `train`, `validation` and `test`.
    """
    tower, encode_image, text_tower, encode_text = frozen_towers(clip, tokenizer)
    splits = {}
    group_ids: dict[str, int] = {}
    for name, rows in split_by_title(load_captioned_pictures(sources)).items():
        rows = rows.filter(lambda row: bool(row["title"].strip()))
        pooled, kept = picture_features(tower, encode_image, image_processor, rows["image"])
        if len(kept) < len(rows):
            logger.warning("%d of %d pictures (%s) could not be read.", len(rows) - len(kept), len(rows), name)
        texts, owners, title_rows = [], [], []
        chosen = [rows[position] for position in kept]
        for number, row in enumerate(chosen):
            title_rows.append(len(texts))
            forms = caption_forms(row["title"], row["description"], row["tags"])
            texts.extend(forms)
            owners.extend([number] * len(forms))
        groups = [group_ids.setdefault(title_group(row["title"]), len(group_ids)) for row in chosen]
        splits[name] = PicturePairs(
            paths=[row["image"] for row in chosen],
            titles=[row["title"] for row in chosen],
            groups=torch.tensor(groups),
            pooled=pooled,
            texts=texts,
            owners=torch.tensor(owners),
            text_features=text_features(text_tower, encode_text, texts),
            title_rows=torch.tensor(title_rows),
        )
    return splits


def frozen_towers(clip, tokenizer):
    """The part of the image tower before its projection with the function that runs it, and the same of the text
    tower, whole."""
    text_tower = clip.model.text if hasattr(clip, "project_image") else clip.text_model

    def encode_text(lines):
        batch = tokenizer(lines, padding=True, truncation=True, return_tensors="pt")
        features = clip.get_text_features(batch["input_ids"], attention_mask=batch["attention_mask"])
        return features if isinstance(features, torch.Tensor) else features.pooler_output

    if hasattr(clip, "project_image"):
        tower = getattr(clip.model.visual, "trunk", clip.model.visual)
        return tower, lambda pixels: clip.get_image_features(pixels).pooled_features, text_tower, encode_text
    return clip.vision_model, lambda pixels: clip.vision_model(pixels).pooler_output, text_tower, encode_text


def project(clip, pooled: torch.Tensor) -> torch.Tensor:
    """Pooled features into the joint space of the dual encoder `(pictures, width)`."""
    if hasattr(clip, "project_image"):
        return clip.project_image(pooled)
    return clip.visual_projection(pooled) if hasattr(clip, "visual_projection") else pooled


__all__ = ["PicturePairs", "frozen_towers", "load_pairs", "project"]
