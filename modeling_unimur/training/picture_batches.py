"""Image files read, hashed, decoded and preprocessed in batches, by worker processes where that pays."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from ..data.image_bytes import FileStamps, decode_image, read_image_bytes, worker_count
from ..data.row_store import KEY_TYPE, RowStore, key_of


@dataclass
class PictureBatch:
    """Some images, ready for a tower.

    Args:
        size: images that were tried.
        positions, keys: of those that could be read, whether or not they had to be decoded.
        decoded_keys: of those that were decoded; `inputs` are theirs, row by row.
        failures: `(position, reason, key)`; the key is None where the bytes could not even be read.
        inputs: what the image processor returns.
    """

    size: int
    positions: list = field(default_factory=list)
    keys: list = field(default_factory=list)
    decoded_keys: list = field(default_factory=list)
    failures: list = field(default_factory=list)
    inputs: dict = field(default_factory=dict)


class PictureBatches(Dataset):
    """Batches of the images that `plan` names.

    Args:
        pictures: addresses as in `data.picture_bytes`.
        image_processor: of the tower.
        batch_size: images per batch.
    """

    def __init__(self, pictures: Sequence[str], image_processor, batch_size: int):
        self.pictures, self.image_processor, self.batch_size = pictures, image_processor, batch_size
        self.keys = np.zeros(len(pictures), dtype=KEY_TYPE)
        self.stamps = np.zeros(len(pictures), dtype=KEY_TYPE)
        self.known = np.zeros(len(pictures), dtype=bool)
        self.missing = np.zeros(len(pictures), dtype=bool)
        self._todo = np.empty(0, dtype=np.int64)
        self._stored = np.empty(0, dtype=KEY_TYPE)

    def remember(self, contents: RowStore) -> "list[tuple[int, str]]":
        """Fills in the keys of images whose files have not changed since they were last read.

        Returns:
            `(position, reason)` of the images whose file is missing.
        """
        stamps, lost = FileStamps(), []
        for position, picture in enumerate(self.pictures):
            try:
                self.stamps[position] = key_of(os.fsencode(stamps.stamp(picture)))
            except OSError as error:
                lost.append((position, f"{picture}: {error.strerror or error}"))
                self.missing[position] = True
        numbers = contents.find(self.stamps)
        self.known = (numbers >= 0) & ~self.missing
        if self.known.any():
            rows = contents.rows(numbers[self.known]).tensor().to(torch.uint8).numpy()
            self.keys[self.known] = np.ascontiguousarray(rows).view(KEY_TYPE).reshape(-1)
        return lost

    def plan(self, positions: np.ndarray, stored: np.ndarray) -> None:
        """Chooses the images that are read. Those whose key is among the sorted keys `stored` are not decoded."""
        self._todo, self._stored = positions, stored

    def __len__(self) -> int:
        return -(-len(self._todo) // self.batch_size)

    def __getitem__(self, number: int) -> PictureBatch:
        positions = self._todo[number * self.batch_size : (number + 1) * self.batch_size].tolist()
        batch, pictures = PictureBatch(len(positions)), []
        for position in positions:
            address, key = self.pictures[position], None
            try:
                data = read_image_bytes(address)
                key = key_of(data)
                picture = None if self._is_stored(key) else decode_image(data, address)
            except (OSError, ValueError) as error:
                batch.failures.append((position, str(error), key))
                continue
            batch.positions.append(position)
            batch.keys.append(key)
            if picture is not None:
                batch.decoded_keys.append(key)
                pictures.append(picture)
        if pictures:
            batch.inputs = dict(self.image_processor(pictures, return_tensors="pt"))
        return batch

    def _is_stored(self, key: bytes) -> bool:
        if not len(self._stored):
            return False
        place = min(int(np.searchsorted(self._stored, np.array(key, dtype=KEY_TYPE))), len(self._stored) - 1)
        return bool(self._stored[place] == np.array(key, dtype=KEY_TYPE))


def load_batches(batches: PictureBatches, workers: "int | None") -> Iterator[PictureBatch]:
    """The planned batches in order, decoded by `workers` processes (None: by number of images and CPUs)."""
    if not len(batches):
        return iter(())
    count = worker_count(workers, len(batches) * batches.batch_size)
    return iter(DataLoader(batches, batch_size=None, num_workers=count, collate_fn=_as_it_is))


def _as_it_is(batch: PictureBatch) -> PictureBatch:
    return batch


__all__ = ["PictureBatch", "PictureBatches", "load_batches", "worker_count"]
