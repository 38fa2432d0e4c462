"""Pictures and the texts that belong to them, with the frozen towers' features at hand."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ..data.captioned_pictures import load_captioned_pictures, split_by_title, title_group
from ..data.row_store import StoredRows
from .caption_forms import caption_forms
from .frozen_features import CachedFeatures, FeatureOptions, FrozenPictures, FrozenTexts
from .frozen_towers import frozen_towers, project

logger = logging.getLogger(__name__)

# Features of up to this many bytes are held in memory; larger ones are gathered from disk, batch by batch.
_IN_MEMORY = 512 * 2**20


@dataclass
class PicturePairs:
    """One split.

    Large splits hold `StoredRows` in place of tensors, and sequences that are read from disk in place of lists; both
    are indexed alike.

    Args:
        paths, titles (`Sequence[str]`): one a picture.
        groups (`torch.Tensor` of shape `(pictures,)`): pictures with one title group are right for each other.
        pooled (`torch.Tensor` of shape `(pictures, pooled_width)`): the frozen image tower's output.
        texts (`Sequence[str]`), owners (`torch.Tensor` of shape `(texts,)`): every caption form and its picture.
        text_features (`torch.Tensor` of shape `(texts, width)`): the frozen text tower's output.
        title_rows (`torch.Tensor` of shape `(pictures,)`): which text is the picture's title.
    """

    paths: Sequence[str]
    titles: Sequence[str]
    groups: torch.Tensor
    pooled: "torch.Tensor | StoredRows"
    texts: Sequence[str]
    owners: torch.Tensor
    text_features: "torch.Tensor | StoredRows"
    title_rows: torch.Tensor


def load_pairs(
    clip,
    image_processor,
    tokenizer,
    sources: "list[str]",
    options: "FeatureOptions | None" = None,
    held_out_fraction: float = 0.005,
    tell: "Callable[[str], None] | None" = None,
    clean_text: "str | None" = None,
) -> "dict[str, PicturePairs]":
    """Captioned pictures in three splits, with features of a dual encoder's frozen towers.

    Args:
        clip: a `CLIPModel`, `SiglipModel`, `Siglip2Model` or `OpenCLIPModel`; what it does before its picture
            projection, and all that its text tower does, is cached. Features come back on the CPU.
        image_processor, tokenizer: its own.
        sources: either what `data.captioned_pictures` takes, split by title; or `cc3m=PATH`, with
            `cc3m_validation=PATH` and `cc3m_test=PATH` where they are to be had (`training.cc3m_pairs`).
        options (`FeatureOptions`, *optional*): how the towers run and what is kept.
        held_out_fraction (`float`): of `cc3m=PATH`, for validation and for test each where they have no path.
        tell (`Callable`, *optional*): takes each line of the report; the log by default.
        clean_text (`str`, *optional*): as `UniMuRProcessor` takes it.

    Returns:
        `dict`: `train`, `validation` and `test`.

    Raises:
        FileNotFoundError, ValueError: for sources that are not there or not of their form.
    """
    towers, options, tell = (
        frozen_towers(clip, tokenizer, clean_text),
        options or FeatureOptions(),
        tell or logger.info,
    )
    pictures = FrozenPictures(towers.picture_tower, towers.encode_pictures, image_processor, options)
    texts = FrozenTexts(towers.text_tower, towers.encode_texts, options)
    named = [source for source in sources if source.startswith("cc3m")]
    if named:
        from .cc3m_pairs import load_cc3m_pairs  # it needs this module's own names

        if len(named) < len(sources):
            raise ValueError(f"data.sources mixes {named} with other sources: train on one kind at a time.")
        return load_cc3m_pairs(named, pictures, texts, held_out_fraction, tell)
    return _installable(sources, pictures, texts, tell)


def _installable(sources, frozen_pictures, frozen_texts, tell) -> "dict[str, PicturePairs]":
    splits = {}
    group_ids: dict[str, int] = {}
    parts = split_by_title(load_captioned_pictures(sources))
    parts = {name: rows.filter(lambda row: bool(row["title"].strip())) for name, rows in parts.items()}
    _require_every_split({name: len(rows) for name, rows in parts.items()}, sources)
    for name, rows in parts.items():
        pictures = frozen_pictures.features(list(rows["image"]))
        tell(pictures.describe(f"{name}, pictures"))
        texts, owners, title_rows = [], [], []
        chosen = [rows[int(position)] for position in pictures.kept]
        for number, row in enumerate(chosen):
            title_rows.append(len(texts))
            forms = caption_forms(row["title"], row["description"], row["tags"])
            texts.extend(forms)
            owners.extend([number] * len(forms))
        groups = [group_ids.setdefault(title_group(row["title"]), len(group_ids)) for row in chosen]
        features = frozen_texts.features(texts)
        tell(features.describe(f"{name}, texts"))
        splits[name] = PicturePairs(
            paths=[row["image"] for row in chosen],
            titles=[row["title"] for row in chosen],
            groups=torch.tensor(groups),
            pooled=in_memory_if_small(pictures),
            texts=texts,
            owners=torch.tensor(owners),
            text_features=in_memory_if_small(features),
            title_rows=torch.tensor(title_rows),
        )
    return splits


def _require_every_split(sizes: "dict[str, int]", sources: "list[str]") -> None:
    """Refuses too few pairs before any feature is computed."""
    empty = [name for name, size in sizes.items() if not size]
    if empty:
        raise ValueError(
            f"{sum(sizes.values())} captioned images of {', '.join(sources)} are too few: by title, none is left "
            f"for {' and '.join(empty)}. Bring more images with different titles; a hundred are enough."
        )


def in_memory_if_small(features: CachedFeatures) -> "torch.Tensor | StoredRows":
    """All rows as a tensor, or left on disk where they are many."""
    rows = features.rows
    return rows.tensor() if 4 * rows.shape.numel() <= _IN_MEMORY else rows


__all__ = ["PicturePairs", "frozen_towers", "in_memory_if_small", "load_pairs", "project"]
