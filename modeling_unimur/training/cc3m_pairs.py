"""Splits of Conceptual Captions 3M with cached features."""

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import torch

from ..data.cc3m_table import CC3MTable, load_cc3m
from .frozen_features import FrozenPictures, FrozenTexts
from .pairs import PicturePairs, in_memory_if_small

_KEYS = {"cc3m": "train", "cc3m_validation": "validation", "cc3m_test": "test"}
# Splits up to this size hold their strings in memory.
_STRINGS_IN_MEMORY = 200_000


def parse_sources(sources: Sequence[str]) -> "dict[str, str]":
    """`cc3m=PATH`, `cc3m_validation=PATH`, `cc3m_test=PATH` as split -> path.

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


def caption_hashes(captions: Sequence[str]) -> "tuple[np.ndarray, np.ndarray]":
    """Of each caption, whatever its case: a 64-bit number that equal captions share, and one that is even in 0..1 by
    which fixed slices are cut."""
    groups, positions = np.empty(len(captions), dtype=np.int64), np.empty(len(captions))
    for number, caption in enumerate(captions):
        digest = hashlib.sha256(caption.casefold().encode("utf-8", "surrogatepass")).digest()
        groups[number] = int.from_bytes(digest[:8], "big", signed=True)
        positions[number] = int.from_bytes(digest[8:16], "big") / 2**64
    return groups, positions


def load_cc3m_pairs(
    sources: Sequence[str],
    frozen_pictures: FrozenPictures,
    frozen_texts: FrozenTexts,
    held_out_fraction: float,
    tell: Callable[[str], None],
) -> "dict[str, PicturePairs]":
    """Train, validation and test of Conceptual Captions 3M; each caption is its picture's title and only text.

    Validation and test come from their own paths, or are slices of the training file that a hash of the caption cuts:
    the same pairs on every machine and however many pictures are missing, and none of them is trained on. Pictures
    with equal captions are right for each other.

    Args:
        sources: as in `parse_sources`; paths as `data.cc3m_table.read_cc3m` takes them.
        frozen_pictures, frozen_texts: of the dual encoder.
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
    groups, positions = caption_hashes(tables["train"].captions)
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
            own, _ = caption_hashes(table.captions)
            rows = np.arange(len(own))
        if not len(rows):
            raise ValueError(
                f"Not one of {len(groups)} pairs is for {split}: name cc3m_{split}=PATH in data.sources, or raise "
                f"data.held_out_fraction ({held_out_fraction})."
            )
        chosen[split] = (table, rows, own)
    # Only now, so that a split without a pair is told before hours of encoding.
    return {split: _pairs(split, *parts, frozen_pictures, frozen_texts, tell) for split, parts in chosen.items()}


def _pairs(split, table, rows, groups, frozen_pictures, frozen_texts, tell) -> PicturePairs:
    pictures = frozen_pictures.features(table.pictures.select(rows))
    tell(pictures.describe(f"{split}, pictures"))
    rows = rows[pictures.kept]
    if not len(rows):
        raise ValueError(f"Not one picture of {split} could be read; the first: {pictures.skipped[0][1]}")
    captions, paths = table.captions.select(rows), table.pictures.select(rows)
    features = frozen_texts.features(captions)
    tell(features.describe(f"{split}, texts"))
    if len(rows) <= _STRINGS_IN_MEMORY:
        captions, paths = list(captions), list(paths)
    order = torch.arange(len(rows))
    return PicturePairs(
        paths=paths,
        titles=captions,
        groups=torch.from_numpy(groups[rows]),
        pooled=in_memory_if_small(pictures),
        texts=captions,
        owners=order,
        text_features=in_memory_if_small(features),
        title_rows=order,
    )


__all__ = ["caption_hashes", "load_cc3m_pairs", "parse_sources"]
