"""Files of tensors, one folder a store, each with a checksum of what it holds and of where it belongs."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import IO, TypeVar

import torch
from safetensors.torch import save_file

logger = logging.getLogger(__name__)

Content = TypeVar("Content")

_TYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "U8": torch.uint8,
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in _TYPES.items()}
# Under this name in the metadata of a file. Files of earlier versions have none.
_CHECKSUM = "checksum"
_BLOCK = 2**20
# What reading a damaged file raises.
_DAMAGE = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RuntimeError)


def write_shard(folder: Path, name: str, tensors: dict[str, torch.Tensor]) -> Path:
    """Writes a file that is there whole or not at all, and its folder; returns its path.

    The checksum covers the tensors, `name`, and the folder's name. A store's folder is named after what its content
    depends on, such as the weights of a model, so that a file of another store, or under another name, is refused.

    Args:
        folder: of the store.
        name: of the file, without its ending.
        tensors: of a floating type, or uint8.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    shard, aside = folder / f"{name}.safetensors", folder / f".{name}.{os.getpid()}"
    digest = _begin(shard)
    for key, tensor in sorted(tensors.items()):
        digest.update(_line(key, _NAMES[tensor.dtype], list(tensor.shape)))
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    save_file(tensors, aside, metadata={_CHECKSUM: digest.hexdigest()})
    with open(aside, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(aside, shard)
    return shard


def read_shards(
    folder: Path, parse: Callable[[dict[str, torch.Tensor]], Content], known: Container[Path] = ()
) -> Iterator[tuple[Path, Content]]:
    """Path and content of all files of a store, each compared with its checksum, which reads all of it.

    Args:
        folder: of the store; it need not be there.
        parse: as in `read_shard`.
        known: paths that are passed over.

    Raises:
        PermissionError: a file may not be read.
    """
    for shard in sorted(folder.glob("*.safetensors")):
        if shard not in known and (content := read_shard(shard, parse)) is not None:
            yield shard, content


def read_shard(shard: Path, parse: Callable[[dict[str, torch.Tensor]], Content]) -> Content | None:
    """The content of a file, after it was compared with its checksum; None where it is not there, or damaged.

    A damaged file is renamed, so that nobody reads it again, and reported in one warning. One that an earlier version
    wrote has no checksum and is taken as it is.

    Args:
        shard: the file.
        parse: makes the content out of tensors, which are views of the mapped file; a ValueError says what is wrong
            with them.

    Raises:
        PermissionError: the file may not be read.
    """
    try:
        _verify(shard)
        return parse(map_tensors(shard))
    except PermissionError:
        raise
    except FileNotFoundError:  # also one that another process has put aside
        return None
    except (OSError, *_DAMAGE) as error:
        put_aside(shard, error)
        return None


def put_aside(file: Path, reason: object) -> None:
    """Renames a damaged file of a store and warns of it."""
    aside = file.with_name(f"{file.name}.damaged")
    try:
        os.replace(file, aside)
        kept = f"the file is kept as {aside.name}"
    except OSError as error:
        kept = f"the file cannot be renamed ({error.strerror or error})"
    logger.warning("%s is damaged (%s). What it held is computed again; %s.", file, reason, kept)


def map_tensors(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """Tensors of a safetensors file as views of the mapped file: what is never indexed is never read.

    Raises:
        ValueError: the file is damaged; the message names it.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            entries, _, start = _read_header(file, size)
        flat = torch.empty(0, dtype=torch.uint8).set_(
            torch.UntypedStorage.from_file(str(path), shared=False, nbytes=size), 0, (size,)
        )
        tensors = {}
        for name, about in entries.items():
            begin, end = (start + offset for offset in about["data_offsets"])
            tensors[name] = flat[begin:end].view(_TYPES[about["dtype"]]).view(about["shape"])
    except _DAMAGE as error:
        raise ValueError(f"{path} is damaged ({error}): delete it, and what it held is computed again.") from error
    return tensors


def _read_header(file: IO[bytes], size: int) -> tuple[dict[str, dict], dict[str, str], int]:
    """Tensors by name, metadata, and where the data begin."""
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= size - 8:
        raise ValueError("it is not a safetensors file, or it is truncated")
    entries = json.loads(file.read(length))
    return entries, entries.pop("__metadata__", {}), 8 + length


def _verify(shard: Path) -> None:
    """Compares a file with its checksum, if it has one; it is read in blocks, so that it takes no memory."""
    with open(shard, "rb") as file:
        entries, metadata, start = _read_header(file, os.fstat(file.fileno()).st_size)
        if _CHECKSUM not in metadata:
            return
        digest, buffer = _begin(shard), memoryview(bytearray(_BLOCK))
        for name, about in sorted(entries.items()):
            shape, (begin, end) = about["shape"], about["data_offsets"]
            if end - begin != math.prod(shape) * _TYPES[about["dtype"]].itemsize:
                raise ValueError("its header does not agree with itself")
            digest.update(_line(name, about["dtype"], shape))
            file.seek(start + begin)
            left = end - begin
            while left:
                count = file.readinto(buffer[: min(left, _BLOCK)])
                if not count:
                    raise ValueError("it has lost its end")
                digest.update(buffer[:count])
                left -= count
        if digest.hexdigest() != metadata[_CHECKSUM]:
            raise ValueError("its checksum is another one: its content has changed, or it belongs elsewhere")


def _begin(shard: Path) -> hashlib._Hash:
    store = os.path.basename(os.path.dirname(os.path.abspath(shard)))
    return hashlib.sha256(_line(store, shard.name))


def _line(*values: object) -> bytes:
    return json.dumps(values).encode() + b"\n"


__all__ = ["map_tensors", "put_aside", "read_shard", "read_shards", "write_shard"]
