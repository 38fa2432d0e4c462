"""Training images of the small dual encoder: those of the training split, and all further clip arts."""

import logging
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional as F

from modeling_unimur.data.row_store import key_of
from modeling_unimur.data.titles import title_group
from modeling_unimur.training.pairs import caption_forms

from ..openclipart import load_openclipart

logger = logging.getLogger(__name__)

_CAMEL_CASE = re.compile(r"(?<=[a-z])(?=[A-Z])")
_NOT_LETTERS = re.compile(r"[\W\d_]+")
# A title that so many differently named files carry is the name of a collection ("Etiquette Icons"), not of a drawing.
_COLLECTION = 5
_COLLECTION_SHARE = 1 / 8
# Drawings of one title that are trained on: 1,375 stars of one program would crowd out the rest.
_MOST_OF_A_TITLE = 12
# Cosine of pooled features at and above which two images are one drawing, whatever they are called; and from which
# they are taken for one where their titles are alike too (cosine of the titles). Chosen by looking at contact sheets.
SAME_IMAGE, ALIKE_IMAGE, ALIKE_TITLE = 0.985, 0.93, 0.7
# Rows of a matrix of cosines that exist at one time.
_CHUNK = 1024


@dataclass
class TrainingImage:
    """One image with all its texts; `title` is what names it best, and comes first."""

    image: str
    title: str
    texts: "list[str]"


def collection_titles(rows: "Iterable[dict]") -> "set[str]":
    """Titles that name a whole collection: the files that carry them are named for what they show."""
    names = defaultdict(list)
    for row in rows:
        if row["source"] == "openclipart" and row["title"]:
            names[row["title"]].append(file_name_words(row["image_id"], row["author"]))
    return {
        title for title, found in names.items() if len(set(found)) >= max(_COLLECTION, _COLLECTION_SHARE * len(found))
    }


def training_images(rows: "Iterable[dict]", held_out: "Iterable[dict]") -> "list[TrainingImage]":
    """Images of the training split, and all further clip arts, with their texts.

    Repeats of a title are kept, up to twelve, since they are different drawings; files with equal bytes are not. What
    has a title, or a name for one, that an image of the other splits (`held_out`) has is left out.
    """
    rows = list(rows)
    known = {row["image_id"] for row in rows}
    everything = list(load_openclipart(deduplicate=False)) if any(r["source"] == "openclipart" for r in rows) else []
    collections = collection_titles(everything)
    taken, taken_files = set(), set()
    for row in held_out:
        taken.add(title_group(row["title"]))
        known.add(row["image_id"])
        taken_files.add(_content(row))
    further = [row for row in everything if row["image_id"] not in known]
    kept, of_title, reasons = [], Counter(), Counter()
    for row in [*rows, *further]:
        image = _with_texts(row, collections)
        content = _content(row)
        # Further drawings of a title that is held out under its own name are told by the words of their files.
        groups = {title_group(image.title)}
        if row["title"] and row["title"] not in collections:
            groups.add(title_group(row["title"]))
        if not image.texts:
            reasons["without words"] += 1
        elif groups & taken:
            reasons["with the title of a held-out image"] += 1
        elif content in taken_files:
            reasons["with the bytes of another"] += 1
        elif of_title[title_group(image.title)] >= _MOST_OF_A_TITLE:
            reasons[f"beyond {_MOST_OF_A_TITLE} of one title"] += 1
        else:
            kept.append(image)
            taken_files.add(content)
            of_title[title_group(image.title)] += 1
    left_out = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
    logger.info("%d images to train on; left out: %s", len(kept), left_out or "none")
    return kept


def _content(row: dict) -> bytes:
    return key_of(Path(row["image"]).read_bytes())


def _with_texts(row: dict, collections: "set[str]") -> TrainingImage:
    title = "" if row["title"] in collections else row["title"].strip()
    name = file_name_words(row["image_id"], row["author"]) if row["source"] == "openclipart" else ""
    texts = caption_forms(title or name, row["description"], row["tags"])
    if title and name and title_group(name) != title_group(title):
        texts.append(name)
    plain = plain_title(title)
    if plain and plain != title:
        texts.append(plain)
    texts = list(dict.fromkeys(text for text in texts if text))
    return TrainingImage(row["image"], title or name or next(iter(texts), ""), texts)


def plain_title(title: str) -> str:
    """A title in plain words: "pill-button_Purple2" -> "pill button purple"."""
    return " ".join(_NOT_LETTERS.sub(" ", _CAMEL_CASE.sub(" ", title)).casefold().split())


def near_twins(
    images: torch.Tensor, titles: torch.Tensor, others: torch.Tensor, other_titles: torch.Tensor
) -> "list[tuple[int, int]]":
    """Pairs of positions in `images` and in `others` whose features show the same drawing.

    Args:
        images (`(n, width)`), others (`(m, width)`): pooled features.
        titles (`(n, text_width)`), other_titles (`(m, text_width)`): features of the titles.
    """
    images, titles, others, other_titles = (
        F.normalize(features.float(), dim=-1) for features in (images, titles, others, other_titles)
    )
    pairs = []
    for start in range(0, len(images), _CHUNK):
        alike = images[start : start + _CHUNK] @ others.T
        words = titles[start : start + _CHUNK] @ other_titles.T
        same = (alike >= SAME_IMAGE) | ((alike >= ALIKE_IMAGE) & (words >= ALIKE_TITLE))
        pairs.extend((row + start, column) for row, column in same.nonzero().tolist())
    return pairs


def joined(first: "Sequence[int]", pairs: "Iterable[tuple[int, int]]") -> torch.Tensor:
    """Group numbers `(n,)`: items of one group, and items joined by a chain of pairs, have the same number. `first`
    is, of each item, the first item of its group."""
    parent = list(first)

    def root(item: int) -> int:
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    for one, other in pairs:
        parent[root(other)] = root(one)
    return torch.tensor([root(number) for number in range(len(parent))])


def shared_groups(titles: "Sequence[str]", features: torch.Tensor, threshold: float = 0.95) -> torch.Tensor:
    """Group numbers `(n,)` of titles; equal and near-equal titles (cosine of their `features` `(n, width)`) share
    one."""
    seen: dict[str, int] = {}
    first = [seen.setdefault(title_group(title), number) for number, title in enumerate(titles)]
    unit, pairs = F.normalize(features.float(), dim=-1), []
    for start in range(0, len(titles), _CHUNK):
        near = (unit[start : start + _CHUNK] @ unit.T >= threshold).nonzero()
        pairs.extend((row + start, column) for row, column in near.tolist() if row + start < column)
    return joined(first, pairs)


def file_name_words(path: str, author: str = "") -> str:
    """What an image's file is named for, without numbers and the author's name at its end:
    "food/half_egg_jean-victor_bal_01" by "Jean-Victor Balin" -> "half egg". Empty where fewer than three letters
    remain."""
    words = _NOT_LETTERS.sub(" ", _CAMEL_CASE.sub(" ", path.rpartition("/")[2])).casefold().split()
    names = _NOT_LETTERS.sub(" ", author).casefold().split()
    # The library cuts file names at a length, and with them the author's name.
    while len(words) > 1 and (len(words[-1]) == 1 or any(name.startswith(words[-1]) for name in names)):
        words.pop()
    return " ".join(words) if len("".join(words)) > 2 else ""
