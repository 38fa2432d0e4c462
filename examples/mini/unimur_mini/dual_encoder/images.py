"""Training images of the small dual encoder: those of the training split, and all other clip art."""

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
# Number of differently named files with one title that makes it the name of a collection ("Etiquette Icons").
_COLLECTION = 5
_COLLECTION_SHARE = 1 / 8
# Maximum number of training images with one title. Without it, 1,375 stars of one program would be too many.
_MOST_OF_A_TITLE = 12
# Cosine of pooled features from which two images are the same drawing, and the cosines of features and of titles from
# which they are considered the same together. They were chosen by looking at contact sheets.
SAME_IMAGE, ALIKE_IMAGE, ALIKE_TITLE = 0.985, 0.93, 0.7
# Number of rows of the matrix of cosines that are computed at a time.
_CHUNK = 1024


@dataclass
class TrainingImage:
    """One image with all its texts. `title` is the text that names it best; it is the first one."""

    image: str
    title: str
    texts: "list[str]"


def collection_titles(rows: "Iterable[dict]") -> "set[str]":
    """Returns the titles that name a whole collection. Names of the files of such a title say what they show."""
    names = defaultdict(list)
    for row in rows:
        if row["source"] == "openclipart" and row["title"]:
            names[row["title"]].append(file_name_words(row["image_id"], row["author"]))
    return {
        title for title, found in names.items() if len(set(found)) >= max(_COLLECTION, _COLLECTION_SHARE * len(found))
    }


def training_images(rows: "Iterable[dict]", held_out: "Iterable[dict]") -> "list[TrainingImage]":
    """Returns the images of the training split and all other clip art, with their texts.

    Up to twelve images of one title are kept, because they are different drawings. Of files with equal bytes, one is
    kept. An image is left out if its title, or the name that replaces it, is that of an image in `held_out`.
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
        # Other drawings whose own title is held out are recognised by the words of their file names.
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
    """Returns a title in plain words: "pill-button_Purple2" -> "pill button purple"."""
    return " ".join(_NOT_LETTERS.sub(" ", _CAMEL_CASE.sub(" ", title)).casefold().split())


def near_twins(
    images: torch.Tensor, titles: torch.Tensor, others: torch.Tensor, other_titles: torch.Tensor
) -> "list[tuple[int, int]]":
    """Returns pairs of positions in `images` and in `others` that show the same drawing, according to their features.

    Args:
        images (`(n, width)`), others (`(m, width)`): Pooled features of the images.
        titles (`(n, text_width)`), other_titles (`(m, text_width)`): Features of the titles.
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
    """Returns group numbers `(n,)` that are equal for items of one group and for items that a chain of pairs joins.

    `first` holds the first item of each item's group.
    """
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
    """Returns group numbers `(n,)` of titles. Equal and similar titles have the same number.

    Titles are similar if the cosine of their `features` `(n, width)` is at least `threshold`.
    """
    seen: dict[str, int] = {}
    first = [seen.setdefault(title_group(title), number) for number, title in enumerate(titles)]
    unit, pairs = F.normalize(features.float(), dim=-1), []
    for start in range(0, len(titles), _CHUNK):
        near = (unit[start : start + _CHUNK] @ unit.T >= threshold).nonzero()
        pairs.extend((row + start, column) for row, column in near.tolist() if row + start < column)
    return joined(first, pairs)


def file_name_words(path: str, author: str = "") -> str:
    """Returns the words of an image's file name, without numbers and without the author's name at the end.

    For instance, "food/half_egg_jean-victor_bal_01" by "Jean-Victor Balin" becomes "half egg". The result is empty if
    fewer than three letters remain.
    """
    words = _NOT_LETTERS.sub(" ", _CAMEL_CASE.sub(" ", path.rpartition("/")[2])).casefold().split()
    names = _NOT_LETTERS.sub(" ", author).casefold().split()
    # The library truncates long file names, and thereby the author's name.
    while len(words) > 1 and (len(words[-1]) == 1 or any(name.startswith(words[-1]) for name in names)):
        words.pop()
    return " ".join(words) if len("".join(words)) > 2 else ""
