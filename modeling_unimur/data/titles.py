"""Titles of images: what two of them have in common, and the fixed split that keeps near twins together."""

from __future__ import annotations

import hashlib
import re
import unicodedata

from datasets import Dataset, DatasetDict

SPLIT_SEED = 0
TEST_FRACTION = 0.12
VALIDATION_FRACTION = 0.05

_UPLOAD = re.compile(r"\bclip ?art by\b[^-\u2013:]*[-\u2013:]?", re.IGNORECASE)
_APOSTROPHE_S = re.compile(r"['\u2019]s\b")
_NOT_LETTERS = re.compile(r"[\W\d_]+")
_IRREGULAR_PLURALS = {
    "buses": "bus",
    "children": "child",
    "feet": "foot",
    "geese": "goose",
    "knives": "knife",
    "leaves": "leaf",
    "men": "man",
    "mice": "mouse",
    "people": "person",
    "shelves": "shelf",
    "teeth": "tooth",
    "wolves": "wolf",
    "women": "woman",
}
# Words that join others, or say how a thing is drawn without naming it.
_FUNCTION_WORDS = frozenset(
    (
        *("an", "and", "at", "by", "de", "for", "from", "in", "into", "la", "le", "of", "on", "or"),
        *("the", "to", "with", "png", "svg", "version"),
        *("clip", "clipart", "color", "colour", "drawing", "flag", "icon", "image", "outline", "picture", "symbol"),
    )
)


def normalise_title(title: str) -> str:
    """A title without case, accents, digits, punctuation, plural endings and the name of an upload.

    "Clipart by Jo - Red Apples_02" -> "red apple". Empty where no letter remains.
    """
    text = _UPLOAD.sub(" ", unicodedata.normalize("NFKD", title.replace("_", " "))).casefold()
    text = "".join(character for character in text if not unicodedata.combining(character))
    words = _NOT_LETTERS.sub(" ", _APOSTROPHE_S.sub("", text)).split()
    return " ".join(_singular(word) for word in words)


def title_group(title: str) -> str:
    """What a split keeps together: the set of a title's content words, so that "Cat (B and W)" goes with "cats"."""
    words = normalise_title(title).split()
    content = {word for word in words if word not in _FUNCTION_WORDS and not (len(word) == 1 and word.isascii())}
    return " ".join(sorted(content or words)) or " ".join(title.casefold().split())


def split_of_title(title: str) -> str:
    """`train`, `validation` or `test`, by a hash of the title's content words alone.

    The answer depends neither on the other titles nor on the system. Images without a title are for training.
    """
    group = title_group(title)
    if not group:
        return "train"
    digest = hashlib.sha256(f"{SPLIT_SEED}:{group}".encode()).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64
    if position < TEST_FRACTION:
        return "test"
    return "validation" if position < TEST_FRACTION + VALIDATION_FRACTION else "train"


def split_by_title(images: Dataset) -> DatasetDict:
    """Splits images with a `title` column, so that one title, and its near twins, are in one split (`train`,
    `validation`, `test`) whatever the order and the sources.

    Raises:
        ValueError: no `title` column.
    """
    if "title" not in images.column_names:
        raise ValueError(f"images have no `title` column, only {images.column_names}")
    members: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
    for index, title in enumerate(images["title"]):
        members[split_of_title(title)].append(index)
    return DatasetDict({split: images.select(indices) for split, indices in members.items()})


def _singular(word: str) -> str:
    if word in _IRREGULAR_PLURALS:
        return _IRREGULAR_PLURALS[word]
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 4 and word.endswith(("ches", "shes", "sses", "xes", "zes", "toes")):
        return word[:-2]
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word
