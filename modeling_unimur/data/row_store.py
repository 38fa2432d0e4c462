"""Rows of numbers by key, in shards on disk that are mapped into memory, not read."""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from .shards import map_tensors, read_shards, write_shard

# Bytes of a key. Half of SHA-256: no two of some million different contents ever share one.
KEY_BYTES = 16
KEY_TYPE = np.dtype(f"S{KEY_BYTES}")
# Fewer rows a file than this are taken one by one.
_SPREAD = 8
# Sorted runs of keys that are searched one after the other before they are merged.
_RUNS = 32


def key_of(content: str | bytes) -> bytes:
    """Return the key of a text, or of the bytes of a file."""
    data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    digest = hashlib.sha256(data).digest()
    # numpy drops zero bytes at the end of a string, so that none ends with one.
    return digest[: KEY_BYTES - 1] + bytes([digest[KEY_BYTES - 1] | 1])


class StoredRows:
    """Chosen rows of a store, gathered from the mapped files when they are indexed; float32 whatever the files hold.

    Behaves as a tensor of shape `(rows, width)` that is indexed along its first axis by a number, a slice, or a list
    or tensor of numbers. It may go to another process: paths and numbers travel, not the rows.
    """

    def __init__(self, files: list[Path], starts: np.ndarray, numbers: np.ndarray, width: int):
        self._files, self._starts, self._numbers, self._width = files, starts, numbers, width
        self._maps: dict[int, torch.Tensor] = {}
        self._functions: tuple[Callable[[torch.Tensor], torch.Tensor], ...] = ()

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_maps": {}}

    dtype, device = torch.float32, torch.device("cpu")

    @property
    def shape(self) -> torch.Size:
        """`(rows, width)`."""
        return torch.Size((len(self._numbers), self._width))

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index) -> torch.Tensor:
        if isinstance(index, torch.Tensor):
            index = index.cpu().numpy()
        chosen = self._numbers[index]
        rows = self._gather(np.atleast_1d(chosen))
        return rows[0] if np.ndim(chosen) == 0 else rows

    @torch.inference_mode(False)  # else whoever gathers under it gets rows that no gradient may pass
    @torch.no_grad()
    def _gather(self, numbers: np.ndarray) -> torch.Tensor:
        if not len(numbers):
            return torch.empty(0, self._width)
        files = np.searchsorted(self._starts, numbers, side="right") - 1
        places = numbers - self._starts[files]
        touched = np.unique(files)
        if len(numbers) < _SPREAD * len(touched):  # a shuffled batch
            rows = [self._held(file)[place] for file, place in zip(files.tolist(), places.tolist(), strict=True)]
            rows = torch.stack(rows).float()
        else:
            rows = torch.empty(len(numbers), self._held(int(touched[0])).shape[1])
            for file in touched.tolist():
                chosen = np.flatnonzero(files == file)
                rows[torch.from_numpy(chosen)] = self._held(file)[torch.from_numpy(places[chosen])].float()
        for function in self._functions:
            rows = function(rows)
        return rows

    def _held(self, file: int) -> torch.Tensor:
        if file not in self._maps:
            self._maps[file] = map_tensors(self._files[file])["features"]
        return self._maps[file]

    def map(self, function: Callable[[torch.Tensor], torch.Tensor], width: int) -> StoredRows:
        """The same rows, passed through `function`, `(n, own width)` to `(n, width)`, when they are gathered."""
        mapped = copy.copy(self)
        mapped._functions, mapped._width = (*self._functions, function), width
        return mapped

    def tensor(self) -> torch.Tensor:
        """Load all rows into memory."""
        return self[:]


class RowStore:
    """Rows of one width and type by key, in one folder.

    Each shard is written whole, aside and renamed, so a run that is killed leaves nothing half-written, and several
    processes may write at once. Keys are held in memory, 24 bytes a row; rows are not. Opening a store compares all
    shards with their checksums, see `shards.read_shards`; the rows of a damaged one are not there.

    Args:
        folder: folder of this store, which is made when the first shard is written. Its name identifies the store,
            and depends on what the rows depend on besides their keys.
        dtype: data type of the rows on disk: float32, bfloat16 or uint8.

    Raises:
        PermissionError: a shard may not be read.
    """

    def __init__(self, folder: str | os.PathLike, dtype: torch.dtype = torch.float32):
        self.folder, self.dtype = Path(folder), dtype
        self._files: list[Path] = []
        self._starts: list[int] = []
        self._count, self._width = 0, 0
        self._runs: list[tuple[np.ndarray, np.ndarray]] = []
        self.refresh()

    def refresh(self) -> None:
        """Add the shards that other processes have written since."""
        start, found = self._count, []
        for shard, (keys, width) in read_shards(self.folder, _columns, set(self._files)):
            self._adopt(shard, len(keys), width)
            found.append(keys)
        if found:
            self._include(np.concatenate(found), start)

    def _adopt(self, shard: Path, count: int, width: int) -> None:
        self._files.append(shard)
        self._starts.append(self._count)
        self._count += count
        self._width = width

    def _include(self, keys: np.ndarray, start: int) -> None:
        order = np.argsort(keys, kind="stable")
        self._runs.append((keys[order], order + start))
        if len(self._runs) > _RUNS:
            self._merge()

    def __len__(self) -> int:
        return self._count

    def __contains__(self, key: bytes) -> bool:
        return bool(self.find(np.array([key], dtype=KEY_TYPE))[0] >= 0)

    def find(self, keys: np.ndarray) -> np.ndarray:
        """Return the row numbers `(n,)` of keys `(n,)` of type `KEY_TYPE`, -1 for unknown keys."""
        numbers = np.full(len(keys), -1, dtype=np.int64)
        for held, order in self._runs:
            places = np.minimum(np.searchsorted(held, keys), len(held) - 1)
            numbers = np.where((held[places] == keys) & (numbers < 0), order[places], numbers)
        return numbers

    def holds(self, keys: list[bytes]) -> np.ndarray:
        """Return which keys have a row."""
        return self.find(np.array(keys, dtype=KEY_TYPE)) >= 0

    def keys(self) -> np.ndarray:
        """Return all keys in sorted order."""
        self._merge()
        return self._runs[0][0] if self._runs else np.empty(0, dtype=KEY_TYPE)

    def _merge(self) -> None:
        if len(self._runs) > 1:
            keys, numbers = (np.concatenate(column) for column in zip(*self._runs, strict=True))
            order = np.argsort(keys, kind="stable")
            self._runs = [(keys[order], numbers[order])]

    def append(self, keys: list[bytes], rows: torch.Tensor) -> None:
        """Write a shard of rows `(n, width)`. If a key exists already, its first row is kept."""
        if not keys:
            return
        packed, start = np.array(keys, dtype=KEY_TYPE), self._count
        table = torch.from_numpy(packed.view(np.uint8).reshape(-1, KEY_BYTES).copy())
        # The same keys in another order are another file: whoever has mapped this one knows its rows by number.
        name = hashlib.sha256(packed.tobytes()).hexdigest()[:16]
        shard = write_shard(self.folder, name, {"features": rows.to(self.dtype), "keys": table})
        self._adopt(shard, len(keys), rows.shape[1])
        self._include(packed, start)

    def rows(self, numbers: np.ndarray) -> StoredRows:
        """Return the rows with these numbers, in this order. They are read when they are indexed."""
        return StoredRows(list(self._files), np.array(self._starts, dtype=np.int64), numbers, self._width)


def _columns(tensors: dict[str, torch.Tensor]) -> tuple[np.ndarray, int]:
    """Keys of a shard `(n,)`, and the width of its rows."""
    if set(tensors) != {"features", "keys"}:
        raise ValueError("it holds no rows and keys")
    features, keys = tensors["features"], tensors["keys"]
    if features.ndim != 2 or keys.dtype != torch.uint8 or keys.shape != (len(features), KEY_BYTES):
        raise ValueError("its rows and keys do not agree")
    return np.ascontiguousarray(keys.numpy()).view(KEY_TYPE).reshape(-1).copy(), features.shape[1]
