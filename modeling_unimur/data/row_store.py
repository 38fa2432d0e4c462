"""Rows of numbers by key, in shards on disk that are mapped into memory, not read."""

import copy
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

# Bytes of a key. Half of SHA-256: no two of some million different contents ever share one.
KEY_BYTES = 16
KEY_TYPE = np.dtype(f"S{KEY_BYTES}")
_TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "U8": torch.uint8}
# Fewer rows a file than this are taken one by one.
_SPREAD = 8
# Sorted runs of keys that are searched one after the other before they are merged.
_RUNS = 32


def key_of(content: "str | bytes") -> bytes:
    """The key of a text, or of a file's bytes."""
    data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    digest = hashlib.sha256(data).digest()
    # numpy drops zero bytes at the end of a string, so that none ends with one.
    return digest[: KEY_BYTES - 1] + bytes([digest[KEY_BYTES - 1] | 1])


def map_tensors(path: "str | os.PathLike") -> "dict[str, torch.Tensor]":
    """Tensors of a safetensors file as views of the mapped file: what is never indexed is never read.

    Raises:
        ValueError: the file is damaged; the message names it.
    """
    size = os.path.getsize(path)
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        flat = torch.empty(0, dtype=torch.uint8).set_(
            torch.UntypedStorage.from_file(str(path), shared=False, nbytes=size), 0, (size,)
        )
        tensors = {}
        for name, about in header.items():
            begin, end = (8 + length + offset for offset in about["data_offsets"])
            tensors[name] = flat[begin:end].view(_TYPES[about["dtype"]]).view(about["shape"])
    except (ValueError, KeyError, RuntimeError, AttributeError, OverflowError) as error:
        raise ValueError(f"{path} is damaged ({error}): delete it, and what it held is computed again.") from error
    return tensors


class StoredRows:
    """Chosen rows of a store, gathered from the mapped files when they are indexed; float32 whatever the files hold.

    Behaves as a tensor of shape `(rows, width)` that is indexed along its first axis by a number, a slice, or a list
    or tensor of numbers. It may go to another process: paths and numbers travel, not the rows.
    """

    def __init__(self, files: "list[Path]", starts: np.ndarray, numbers: np.ndarray, width: int):
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

    def map(self, function: "Callable[[torch.Tensor], torch.Tensor]", width: int) -> "StoredRows":
        """The same rows, passed through `function`, `(n, own width)` to `(n, width)`, when they are gathered."""
        mapped = copy.copy(self)
        mapped._functions, mapped._width = (*self._functions, function), width
        return mapped

    def tensor(self) -> torch.Tensor:
        """All rows in memory."""
        return self[:]

    def clone(self) -> "StoredRows":
        """Itself: rows on disk are never written to."""
        return self


class RowStore:
    """Rows of one width and type by key, in one folder.

    Each shard is written whole, aside and renamed, so a run that is killed leaves nothing half-written, and several
    processes may write at once. Keys are held in memory, 24 bytes a row; rows are not.

    Args:
        folder: of this store; made when the first shard is written.
        dtype: of the rows on disk: float32, bfloat16 or uint8.

    Raises:
        ValueError: a shard is damaged.
    """

    def __init__(self, folder: "str | os.PathLike", dtype: torch.dtype = torch.float32):
        self.folder, self.dtype = Path(folder), dtype
        self._files: list[Path] = []
        self._starts: list[int] = []
        self._count, self._width = 0, 0
        self._runs: list[tuple[np.ndarray, np.ndarray]] = []
        keys = [self._adopt(shard) for shard in sorted(self.folder.glob("*.safetensors"))]
        if keys:
            self._runs = [self._sorted(np.concatenate(keys), 0)]

    @staticmethod
    def _sorted(keys: np.ndarray, start: int) -> "tuple[np.ndarray, np.ndarray]":
        order = np.argsort(keys, kind="stable")
        return keys[order], order + start

    def _adopt(self, shard: Path) -> np.ndarray:
        held = map_tensors(shard)
        if set(held) != {"features", "keys"} or len(held["features"]) != len(held["keys"]):
            raise ValueError(f"{shard} is no shard of rows and keys: delete it.")
        keys = np.ascontiguousarray(held["keys"].numpy()).view(KEY_TYPE).reshape(-1).copy()
        self._files.append(shard)
        self._starts.append(self._count)
        self._count += len(keys)
        self._width = held["features"].shape[1]
        return keys

    def __len__(self) -> int:
        return self._count

    def __contains__(self, key: bytes) -> bool:
        return bool(self.find(np.array([key], dtype=KEY_TYPE))[0] >= 0)

    def find(self, keys: np.ndarray) -> np.ndarray:
        """Numbers `(n,)` of the rows with these keys `(n,)` of type `KEY_TYPE`; -1 where there is none."""
        numbers = np.full(len(keys), -1, dtype=np.int64)
        for held, order in self._runs:
            places = np.minimum(np.searchsorted(held, keys), len(held) - 1)
            numbers = np.where((held[places] == keys) & (numbers < 0), order[places], numbers)
        return numbers

    def holds(self, keys: "list[bytes]") -> np.ndarray:
        """Which of the keys have a row."""
        return self.find(np.array(keys, dtype=KEY_TYPE)) >= 0

    def keys(self) -> np.ndarray:
        """All keys, sorted."""
        self._merge()
        return self._runs[0][0] if self._runs else np.empty(0, dtype=KEY_TYPE)

    def _merge(self) -> None:
        if len(self._runs) > 1:
            keys, numbers = (np.concatenate(column) for column in zip(*self._runs, strict=True))
            order = np.argsort(keys, kind="stable")
            self._runs = [(keys[order], numbers[order])]

    def append(self, keys: "list[bytes]", rows: torch.Tensor) -> None:
        """Writes a shard of rows `(n, width)`; keys that are already there are no error, and the first row counts."""
        if not keys:
            return
        packed = np.array(keys, dtype=KEY_TYPE)
        table = torch.from_numpy(packed.view(np.uint8).reshape(-1, KEY_BYTES).copy())
        self.folder.mkdir(parents=True, exist_ok=True)
        name = hashlib.sha256(np.sort(packed).tobytes()).hexdigest()[:16]
        aside, shard = self.folder / f".{name}.{os.getpid()}", self.folder / f"{name}.safetensors"
        save_file({"features": rows.to(self.dtype).contiguous().cpu(), "keys": table}, aside)
        with open(aside, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(aside, shard)
        start = self._count
        self._runs.append(self._sorted(self._adopt(shard), start))
        if len(self._runs) > _RUNS:
            self._merge()

    def rows(self, numbers: np.ndarray) -> StoredRows:
        """The rows of these numbers, in this order, not read yet."""
        return StoredRows(list(self._files), np.array(self._starts, dtype=np.int64), numbers, self._width)


__all__ = ["KEY_BYTES", "KEY_TYPE", "RowStore", "StoredRows", "key_of", "map_tensors"]
