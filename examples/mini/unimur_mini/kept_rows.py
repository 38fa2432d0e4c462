"""Rows in their splits as datasets, made once and kept in the cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from datasets import Dataset, DatasetDict, Features, load_from_disk

from modeling_unimur.data.cache import build_once, cache_dir

SPLITS = ("train", "validation", "test")


def as_datasets(parts: Mapping[str, Sequence[dict]], features: Features) -> DatasetDict:
    """Rows of each split with the columns of `features`; what else a row holds is left out."""
    return DatasetDict(
        {
            split: Dataset.from_dict({name: [row[name] for row in rows] for name in features}, features=features)
            for split, rows in parts.items()
        }
    )


def kept(name: str, build: Callable[[], DatasetDict]) -> DatasetDict:
    """What `build` returns, with all of `SPLITS`, from the cache after the first time; `name` holds its version."""
    folder = build_once(cache_dir() / "data" / name, lambda aside: build().save_to_disk(aside))
    return DatasetDict({split: load_from_disk(folder / split) for split in SPLITS})
