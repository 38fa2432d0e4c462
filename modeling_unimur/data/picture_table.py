"""The table of captioned images that every reader fills."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypedDict

from datasets import Dataset, Features, Value
from datasets import List as ListFeature

PICTURE_FEATURES = Features(
    {
        "image_id": Value("string"),
        "image": Value("string"),
        "title": Value("string"),
        "description": Value("string"),
        "tags": ListFeature(Value("string")),
        "source": Value("string"),
        "license": Value("string"),
        "author": Value("string"),
    }
)


class PictureRow(TypedDict):
    """One captioned image; `image` is the path of a PNG or JPEG file, words that are not known are empty."""

    image_id: str
    image: str
    title: str
    description: str
    tags: list[str]
    source: str
    license: str
    author: str


def picture_dataset(rows: Iterable[PictureRow]) -> Dataset:
    """Rows as a `datasets.Dataset` with the columns of `PICTURE_FEATURES`."""
    rows = list(rows)
    columns = {name: [row[name] for row in rows] for name in PICTURE_FEATURES}
    return Dataset.from_dict(columns, features=PICTURE_FEATURES)
