"""Files of tensors, one folder a store, each with a checksum of what it holds and of where it belongs."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from .atomic_files import atomic_file

logger = logging.getLogger(__name__)

Content = TypeVar("Content")

# Names of the types in the checksum.
_TYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.uint8: "U8",
}  # fmt: skip
# Under this name in the metadata of a file. Files of earlier versions have none.
_CHECKSUM = "checksum"


def write_shard(folder: Path, name: str, tensors: dict[str, torch.Tensor]) -> Path:
    """Write tensors (of a floating type, or uint8) atomically to `<folder>/<name>.safetensors`, and return its path.

    The checksum covers the tensors, `name`, and the folder's name. A store's folder is named after what its content
    depends on, such as the weights of a model, so that a file of another store, or under another name, is refused.
    """
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    shard = folder / f"{name}.safetensors"
    with atomic_file(shard) as aside:
        save_file(tensors, aside, metadata={_CHECKSUM: _digest(shard, tensors)})
    return shard


def read_shards(
    folder: Path, parse: Callable[[dict[str, torch.Tensor]], Content], known: Container[Path] = ()
) -> Iterator[tuple[Path, Content]]:
    """Yield the path and the content of all files of a store but the `known` ones, as `read_shard` reads them. The
    folder need not be there.

    Raises:
        PermissionError: a file may not be read.
    """
    for shard in sorted(folder.glob("*.safetensors")):
        if shard not in known and (content := read_shard(shard, parse)) is not None:
            yield shard, content


def read_shard(shard: Path, parse: Callable[[dict[str, torch.Tensor]], Content]) -> Content | None:
    """Return the content of a file after comparing it with its checksum, or None if it is missing or damaged.

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
        tensors, metadata = _map(shard)
        if _CHECKSUM in metadata and metadata[_CHECKSUM] != _digest(shard, tensors):
            raise ValueError("its checksum is another one: its content has changed, or it belongs elsewhere")
        return parse(tensors)
    except PermissionError:
        raise
    except FileNotFoundError:  # also one that another process has put aside
        return None
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        put_aside(shard, error)
        return None


def put_aside(file: Path, reason: object) -> None:
    """Rename a damaged file of a store and log a warning."""
    aside = file.with_name(f"{file.name}.damaged")
    try:
        os.replace(file, aside)
        kept = f"the file is kept as {aside.name}"
    except OSError as error:
        kept = f"the file cannot be renamed ({error.strerror or error})"
    logger.warning("%s is damaged (%s). What it held is computed again; %s.", file, reason, kept)


def map_tensors(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """Map the tensors of a safetensors file into memory. Only what is indexed is read.

    Raises:
        ValueError: the file is damaged; the message names it.
    """
    try:
        return _map(path)[0]
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}): delete it, and what it held is computed again.") from error


def _map(path: str | os.PathLike) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118


def _digest(shard: Path, tensors: dict[str, torch.Tensor]) -> str:
    """Return the checksum of the tensors, the file name and the folder name."""
    store = os.path.basename(os.path.dirname(os.path.abspath(shard)))
    digest = hashlib.sha256(_line(store, shard.name))
    for name, tensor in sorted(tensors.items()):
        digest.update(_line(name, _TYPES[tensor.dtype], list(tensor.shape)))
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _line(*values: object) -> bytes:
    return json.dumps(values).encode() + b"\n"
