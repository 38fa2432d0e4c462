"""Reads pickles of arrays and plain containers without running the code that they name.

A pickle is a program: it names functions and has them called. Here each of the few names that arrays, tensors and
containers need stands for a maker of this module, which checks what it is given; any other name ends the reading.
numpy's and torch's own functions for it are never called with a file's arguments.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

_DTYPE = re.compile(r"[<>=|]?([biuf][1248]|[US][0-9]{1,6}|O8?)")


class _Maker:
    """Stands in a pickle for a function or a class; it can be called, and nothing about it can be changed."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable):
        object.__setattr__(self, "_make", make)

    def __call__(self, *arguments):
        return self._make(*arguments)

    def __setattr__(self, name: str, value) -> None:
        raise pickle.UnpicklingError(f"a new {name} for a function")

    def __setstate__(self, state) -> None:
        raise pickle.UnpicklingError("a state for a function")


class _DType:
    """A dtype under construction: its code, and what a pickle sets afterwards, of which only the byte order counts."""

    def __init__(self, code: str, align: bool = False, copy: bool = False):
        if not isinstance(code, str) or _DTYPE.fullmatch(code) is None:
            raise pickle.UnpicklingError(f"the dtype {code!r}")
        self.code = code.lstrip("<>=|")
        self.order = code[0] if code[0] in "<>" else "="

    def __setstate__(self, state: tuple) -> None:
        order, fields = state[1], state[2:5]
        if order not in ("<", ">", "|", "=") or any(field is not None for field in fields):
            raise pickle.UnpicklingError("a structured dtype")
        self.order = order

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(("" if self.order in "=|" else self.order) + self.code)


class _Array:
    """An array under construction."""

    def __init__(self):
        self.array: np.ndarray = np.empty(0)

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, by_column, raw = state
        self.array = _array(raw, dtype, shape, "F" if by_column else "C")


def _array(raw, dtype: _DType, shape: tuple, order: str = "C") -> np.ndarray:
    if not isinstance(dtype, _DType) or order not in ("C", "F"):
        raise pickle.UnpicklingError("an array of unknown make")
    if not isinstance(shape, tuple) or not all(isinstance(n, int) and n >= 0 for n in shape):
        raise pickle.UnpicklingError(f"an array of shape {shape!r}")
    count = math.prod(shape)
    if dtype.code.startswith("O"):
        if not isinstance(raw, list) or len(raw) != count:
            raise pickle.UnpicklingError("an array of objects that are not there")
        flat = np.empty(count, dtype=object)
        flat[:] = [_finish(item) for item in raw]
    else:
        if not isinstance(raw, (bytes, bytearray)) or len(raw) != count * dtype.dtype.itemsize:
            raise pickle.UnpicklingError(f"an array of {count} values in another number of bytes")
        flat = np.frombuffer(raw, dtype.dtype)
    return flat.reshape(shape, order=order)


def _reconstruct(kind, shape, code) -> _Array:
    if kind is not _NDARRAY or shape != (0,):
        raise pickle.UnpicklingError("an array of unknown make")
    return _Array()


def _scalar(dtype, raw=b"") -> Any:
    return _array(raw, dtype, ()).item()


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":  # how old protocols write bytes
        raise pickle.UnpicklingError(f"the encoding {encoding!r}")
    return text.encode("latin1")


def _storage(raw: bytes) -> torch.Tensor:
    """All numbers of a storage, which torch itself reads with `weights_only`."""
    stored = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
    return torch.empty(0, dtype=stored.dtype).set_(stored)


def _tensor(stored, offset, size, stride, gradient, hooks) -> np.ndarray:
    whole = [*size, *stride, offset]
    if not isinstance(stored, torch.Tensor) or not all(isinstance(n, int) and n >= 0 for n in whole) or hooks:
        raise pickle.UnpicklingError("a tensor of unknown make")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if all(size) else -1
    if last >= stored.numel() or math.prod(size) > stored.numel():
        raise pickle.UnpicklingError("a tensor beyond its storage")
    values = stored.as_strided(size, stride, offset)
    return (values.float() if values.dtype == torch.bfloat16 else values).numpy()


_NDARRAY = _Maker(lambda: None)
_NUMPY = {
    ("multiarray", "_reconstruct"): _reconstruct,
    ("multiarray", "scalar"): _scalar,
    ("numeric", "_frombuffer"): _array,
}
_KNOWN = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _Maker(_DType),
    ("_codecs", "encode"): _Maker(_encode),
    ("collections", "OrderedDict"): _Maker(dict),
    ("torch._utils", "_rebuild_tensor_v2"): _Maker(_tensor),
    ("torch.storage", "_load_from_bytes"): _Maker(_storage),
    **{
        (f"numpy.{core}.{module}", name): _Maker(make)
        for core in ("core", "_core")
        for (module, name), make in _NUMPY.items()
    },
    **{
        (module, kind.__name__): _Maker(kind)
        for module in ("builtins", "__builtin__")
        for kind in (dict, frozenset, list, set, tuple)
    },
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> _Maker:
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(f"{module}.{name}")
        return _KNOWN[module, name]


def _finish(value):
    """Containers with arrays in the place of those that were under construction."""
    if isinstance(value, _Array):
        return value.array
    if isinstance(value, dict):
        return {_finish(key): _finish(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_finish(item) for item in value)
    return value


def _read(file: BinaryIO, path: Path) -> Any:
    try:
        return _finish(_Reader(file).load())
    except Exception as error:  # whatever a hostile or damaged file makes a reader raise
        raise ValueError(
            f"{path} cannot be read as arrays in plain containers: it asks for or breaks at {error}. Nothing of it "
            "was run; save it anew as .npy or .safetensors."
        ) from error


def read_arrays(path: str | os.PathLike) -> Any:
    """Reads a pickle or numpy file of arrays, numbers, texts and containers of these; tensors become arrays.

    Args:
        path: a pickle under any name (GILL's is called `.npy`), or a file that `np.save` wrote, of numbers or of one
            object.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or names anything else than arrays, tensors and plain containers.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there.")
    with open(path, "rb") as file:
        start = file.read(6)
        file.seek(0)
        if start != np.lib.format.MAGIC_PREFIX:
            return _read(file, path)
        try:
            version = np.lib.format.read_magic(file)
            reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = reader(file)
            if not dtype.hasobject:
                return np.load(path, allow_pickle=False, mmap_mode="r")
        except (ValueError, OSError) as error:
            raise ValueError(f"{path} is a damaged numpy file ({error}).") from error
        content = _read(file, path)
        return content.item() if shape == () and isinstance(content, np.ndarray) else content
