"""Images and the texts that belong to them, with the frozen towers' features at hand."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..data.captioned_images import load_captioned_images
from ..data.cc3m import CC3MTable, load_cc3m
from ..data.row_store import StoredRows
from ..data.titles import split_by_title, title_group
from .frozen_features import CachedFeatures, FeatureOptions, FrozenImages, FrozenTexts
from .frozen_towers import frozen_towers

# Words a description may have to be a caption and not an essay.
_LONGEST = 40
_ADDRESS = re.compile(r"https?://|www\.|\S+@\S+\.\S+")


def _clean(text: str) -> str:
    return " ".join(text.split())


def caption_forms(title: str, description: str = "", tags: list[str] | None = None) -> list[str]:
    """Make several texts for one image: its title, its description, and the title with tags.

    Args:
        title: may be empty.
        description: left out when it repeats the title, is longer than forty words, or holds an address.
        tags: keywords; the first four that the title does not hold are used.

    Returns:
        at least one text, unless all three are empty.
    """
    title, description = _clean(title), _clean(description)
    forms = [title] if title else []
    usable = description and not _ADDRESS.search(description) and len(description.split()) <= _LONGEST
    if usable and description.casefold().strip(" .!") != title.casefold().strip(" .!"):
        forms.append(description)
    fresh = [tag for tag in map(_clean, tags or []) if tag and tag.casefold() not in title.casefold()][:4]
    if fresh:
        forms.append(", ".join([title, *fresh] if title else fresh))
    return forms


logger = logging.getLogger(__name__)

# Features of up to this many bytes are held in memory; larger ones are gathered from disk, batch by batch.
_IN_MEMORY = 512 * 2**20
_KEYS = {"cc3m": "train", "cc3m_validation": "validation", "cc3m_test": "test"}
# Splits up to this size hold their strings in memory.
_STRINGS_IN_MEMORY = 200_000


@dataclass
class ImagePairs:
    """The images and texts of one split.

    Large splits hold `StoredRows` in place of tensors, and sequences that are read from disk in place of lists; both
    are indexed alike.

    Args:
        paths, titles (`Sequence[str]`): one per image.
        groups (`torch.Tensor` of shape `(images,)`): images with one title group are right for each other.
        pooled (`torch.Tensor` of shape `(images, pooled_width)`): the frozen image tower's output.
        texts (`Sequence[str]`), owners (`torch.Tensor` of shape `(texts,)`): every caption form and its image.
        text_features (`torch.Tensor` of shape `(texts, width)`): the frozen text tower's output.
        title_rows (`torch.Tensor` of shape `(images,)`): which text is the image's title.
    """

    paths: Sequence[str]
    titles: Sequence[str]
    groups: torch.Tensor
    pooled: torch.Tensor | StoredRows
    texts: Sequence[str]
    owners: torch.Tensor
    text_features: torch.Tensor | StoredRows
    title_rows: torch.Tensor


def load_pairs(
    clip,
    image_processor,
    tokenizer,
    sources: list[str],
    options: FeatureOptions | None = None,
    held_out_fraction: float = 0.005,
    tell: Callable[[str], None] | None = None,
    clean_text: str | None = None,
) -> dict[str, ImagePairs]:
    """Loads captioned images in three splits, with features of a dual encoder's frozen towers.

    Args:
        clip: a `CLIPModel`, `SiglipModel`, `Siglip2Model` or `OpenCLIPModel`; what it does before its image
            projection, and all that its text tower does, is cached. Features come back on the CPU.
        image_processor, tokenizer: its own.
        sources: either what `data.captioned_images` takes, split by title; or `cc3m=PATH`, with
            `cc3m_validation=PATH` and `cc3m_test=PATH` where they are to be had (`load_cc3m_pairs`).
        options (`FeatureOptions`, *optional*): how the towers run and what is kept.
        held_out_fraction (`float`): share of `cc3m=PATH`, for validation and for test each where they have no path.
        tell (`Callable`, *optional*): takes each line of the report; the log by default.
        clean_text (`str`, *optional*): as `UniMuRProcessor` takes it.

    Returns:
        `dict`: `train`, `validation` and `test`.

    Raises:
        FileNotFoundError, ValueError: for sources that are not there or not of their form.
    """
    towers, tell = frozen_towers(clip, tokenizer, clean_text), tell or logger.info
    images = FrozenImages(towers.image_tower, towers.encode_images, image_processor, options)
    texts = FrozenTexts(towers.text_tower, towers.encode_texts, options)
    named = [source for source in sources if source.startswith("cc3m")]
    if named:
        if len(named) < len(sources):
            raise ValueError(f"data.sources mixes {named} with other sources: train on one kind at a time.")
        return load_cc3m_pairs(named, images, texts, held_out_fraction, tell)
    return _installable(sources, images, texts, tell)


def _installable(sources, frozen_images, frozen_texts, tell) -> dict[str, ImagePairs]:
    splits = {}
    group_ids: dict[str, int] = {}
    parts = split_by_title(load_captioned_images(sources))
    parts = {name: rows.filter(lambda row: bool(row["title"].strip())) for name, rows in parts.items()}
    empty = [name for name, rows in parts.items() if not len(rows)]
    if empty:  # said before any feature is computed
        raise ValueError(
            f"{sum(map(len, parts.values()))} captioned images of {', '.join(sources)} are too few: by title, none is "
            f"left for {' and '.join(empty)}. Bring more images with different titles; a hundred are enough."
        )
    for name, rows in parts.items():
        images = frozen_images.features(list(rows["image"]))
        tell(images.describe(f"{name}, images"))
        texts, owners, title_rows = [], [], []
        chosen = [rows[int(position)] for position in images.kept]
        for number, row in enumerate(chosen):
            title_rows.append(len(texts))
            forms = caption_forms(row["title"], row["description"], row["tags"])
            texts.extend(forms)
            owners.extend([number] * len(forms))
        groups = [group_ids.setdefault(title_group(row["title"]), len(group_ids)) for row in chosen]
        features = frozen_texts.features(texts)
        tell(features.describe(f"{name}, texts"))
        splits[name] = ImagePairs(
            paths=[row["image"] for row in chosen],
            titles=[row["title"] for row in chosen],
            groups=torch.tensor(groups),
            pooled=in_memory_if_small(images),
            texts=texts,
            owners=torch.tensor(owners),
            text_features=in_memory_if_small(features),
            title_rows=torch.tensor(title_rows),
        )
    return splits


def in_memory_if_small(features: CachedFeatures) -> torch.Tensor | StoredRows:
    """Return all rows as a tensor, or leave them on disk if there are many."""
    rows = features.rows
    return rows.tensor() if 4 * rows.shape.numel() <= _IN_MEMORY else rows


# -- Conceptual Captions 3M -------------------------------------------------------------------------------------------
def parse_sources(sources: Sequence[str]) -> dict[str, str]:
    """Parse `cc3m=PATH`, `cc3m_validation=PATH` and `cc3m_test=PATH` into split -> path.

    Raises:
        ValueError: for another key, a key that comes twice, an empty path, or no training split.
    """
    paths: dict[str, str] = {}
    for source in sources:
        key, _, path = source.partition("=")
        if key not in _KEYS or not path or _KEYS[key] in paths:
            choices = ", ".join(f"{key}=PATH" for key in _KEYS)
            raise ValueError(f"data.sources: {source!r} is not one of {choices}, each once.")
        paths[_KEYS[key]] = path
    if "train" not in paths:
        raise ValueError("data.sources: name the training split, cc3m=PATH.")
    return paths


def caption_hashes(captions: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Returns two columns per caption, whatever its case: a 64-bit number that equal captions share, and a number that
    is uniform in 0..1, by which fixed slices are cut."""
    groups, positions = np.empty(len(captions), dtype=np.int64), np.empty(len(captions))
    for number, caption in enumerate(captions):
        digest = hashlib.sha256(caption.casefold().encode("utf-8", "surrogatepass")).digest()
        groups[number] = int.from_bytes(digest[:8], "big", signed=True)
        positions[number] = int.from_bytes(digest[8:16], "big") / 2**64
    return groups, positions


def load_cc3m_pairs(
    sources: Sequence[str],
    frozen_images: FrozenImages,
    frozen_texts: FrozenTexts,
    held_out_fraction: float,
    tell: Callable[[str], None],
) -> dict[str, ImagePairs]:
    """Loads the three splits of Conceptual Captions 3M; each caption is its image's title and only text.

    Validation and test come from their own paths, or are slices of the training file that a hash of the caption cuts:
    the same pairs on every machine and however many images are missing, and none of them is trained on. Images
    with equal captions are right for each other.

    Args:
        sources: as in `parse_sources`; paths as `data.cc3m.read_cc3m` takes them.
        frozen_images, frozen_texts: towers of the dual encoder.
        held_out_fraction: expected share of the training file in each slice.
        tell: takes each line of the report.

    Raises:
        ValueError: for wrong sources, or a split without a pair.
        FileNotFoundError: for a path that is not there.
    """
    paths = parse_sources(sources)
    if not 0 <= held_out_fraction < 0.5:
        raise ValueError(f"data.held_out_fraction is a share below 0.5, not {held_out_fraction}.")
    tables: dict[str, CC3MTable] = {}
    for split in ("train", "validation", "test"):
        if split in paths:
            tables[split] = load_cc3m(paths[split], split)
            tell(f"{split}: {tables[split].report.describe()}")
    groups, positions = caption_hashes(tables["train"].pairs["caption"])
    part, cut = np.zeros(len(groups), dtype=np.int8), 0.0
    for number, split in enumerate(("validation", "test"), start=1):
        if split not in tables:
            part[(positions >= cut) & (positions < cut + held_out_fraction)] = number
            cut += held_out_fraction
    chosen = {}
    for number, split in enumerate(("train", "validation", "test")):
        table, own = tables.get(split, tables["train"]), groups
        rows = np.flatnonzero(part == number)
        if split in tables and split != "train":
            own, _ = caption_hashes(table.pairs["caption"])
            rows = np.arange(len(own))
        if not len(rows):
            raise ValueError(
                f"None of {len(groups)} pairs is for {split}: name cc3m_{split}=PATH in data.sources, or raise "
                f"data.held_out_fraction ({held_out_fraction})."
            )
        chosen[split] = (table, rows, own)
    # Only now, so that a split without a pair is told before hours of encoding.
    return {split: _cc3m_split(split, *parts, frozen_images, frozen_texts, tell) for split, parts in chosen.items()}


def _cc3m_split(split, table, rows, groups, frozen_images, frozen_texts, tell) -> ImagePairs:
    images = frozen_images.features(table.pairs.select(rows)["image"])
    tell(images.describe(f"{split}, images"))
    rows = rows[images.kept]
    if not len(rows):
        raise ValueError(f"No image of {split} could be read; the first: {images.skipped[0][1]}")
    chosen = table.pairs.select(rows)
    captions, paths = chosen["caption"], chosen["image"]
    features = frozen_texts.features(captions)
    tell(features.describe(f"{split}, texts"))
    if len(rows) <= _STRINGS_IN_MEMORY:
        captions, paths = list(captions), list(paths)
    order = torch.arange(len(rows))
    return ImagePairs(
        paths=paths,
        titles=captions,
        groups=torch.from_numpy(groups[rows]),
        pooled=in_memory_if_small(images),
        texts=captions,
        owners=order,
        text_features=in_memory_if_small(features),
        title_rows=order,
    )
