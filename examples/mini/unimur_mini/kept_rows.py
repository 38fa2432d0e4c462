"""Datasets by split, built once and kept in the cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from datasets import Dataset, DatasetDict, Features, Value, load_from_disk
from datasets import List as ListFeature

from modeling_unimur.data.cache import build_once, cache_dir

SPLITS = ("train", "validation", "test")
_TURNS = ListFeature({"role": Value("string"), "content": Value("string")})


def columns(*names: str) -> Features:
    """Returns the features of text columns. `turns` is a list of messages with `role` and `content`."""
    return Features({name: _TURNS if name == "turns" else Value("string") for name in names})


def as_datasets(parts: Mapping[str, Sequence[dict]], features: Features) -> DatasetDict:
    """Converts the rows of each split to a dataset with the columns of `features`. Other keys of a row are dropped."""
    return DatasetDict(
        {
            split: Dataset.from_dict({name: [row[name] for row in rows] for name in features}, features=features)
            for split, rows in parts.items()
        }
    )


def kept(name: str, build: Callable[[], DatasetDict]) -> DatasetDict:
    """Builds a dataset with all of `SPLITS` once, and reads it from the cache later. `name` includes its version."""
    folder = build_once(cache_dir() / "data" / name, lambda aside: build().save_to_disk(aside))
    return DatasetDict({split: load_from_disk(folder / split) for split in SPLITS})


def rows_of(dataset: Dataset) -> list[dict]:
    """Returns all rows. Arrow converts them all at once, which is faster than iterating over the dataset."""
    return dataset.with_format("arrow")[:].to_pylist()
