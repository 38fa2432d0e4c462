"""Reads foreign checkpoints without running their code, and accounts for every tensor."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file


def read_tensors(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """A checkpoint's state dict, on the CPU, without the `module.` that data-parallel training puts before each key.

    Args:
        path: a `.safetensors` file, or one that `torch.save` wrote; of that, tensors and containers only are read.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, asks for code to be run, or holds no state dict.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there: pass the checkpoint's own file.")
    try:
        if path.suffix == ".safetensors":
            content = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} holds more than tensors, and reading that would run code of the file's choice (weights_only): "
            f"save its state dict alone. ({str(error).strip().splitlines()[0]})"
        ) from error
    except (RuntimeError, EOFError, OSError, SafetensorError) as error:
        if "TorchScript" in str(error):
            raise ValueError(
                f"{path} is a TorchScript archive, a program with weights: save its state dict with torch.save."
            ) from error
        raise ValueError(f"{path} is damaged or no checkpoint ({str(error).splitlines()[0]}).") from error
    for entry in ("state_dict", "model"):  # beside which a checkpoint may keep other things
        if isinstance(content, Mapping) and isinstance(content.get(entry), Mapping):
            content = content[entry]
            break
    if not isinstance(content, Mapping) or not content:
        raise ValueError(f"{path} holds {type(content).__name__} and no state dict.")
    wrong = [key for key, value in content.items() if not (isinstance(key, str) and isinstance(value, torch.Tensor))]
    if wrong:
        raise ValueError(f"{path} holds {wrong[0]!r}, which is no named tensor: save the state dict alone.")
    parallel = all(key.startswith("module.") for key in content)
    return {key.removeprefix("module.") if parallel else key: value for key, value in content.items()}


def new_target(path: str | os.PathLike) -> Path:
    """The absolute path of a folder or file that is to be made. Raises FileExistsError where it is there."""
    target = Path(path).absolute()
    if target.exists():
        raise FileExistsError(f"{target} exists: remove it or choose another name.")
    return target


class KeyLedger:
    """Hands out each tensor of a state dict once, checks its shape, and writes down where it went."""

    def __init__(self, tensors: Mapping[str, torch.Tensor], source: str):
        self.source = source
        self._left = dict(tensors)
        self._lines: list[tuple[str, str, str]] = []

    def __contains__(self, key: str) -> bool:
        return key in self._left

    def keys(self) -> list[str]:
        """Keys that nobody has asked for yet."""
        return list(self._left)

    def peek(self, key: str) -> torch.Tensor:
        """Returns a tensor without taking it. Raises ValueError where there is no such tensor."""
        self._require(key)
        return self._left[key]

    def take(self, key: str, target: str, *shapes: tuple[int, ...]) -> torch.Tensor:
        """Takes a tensor and reshapes it to the first of `shapes`, of which the source may have it in any. `target` is
        its name in what is made of it, for the report.

        Raises:
            ValueError: there is no such tensor, or it has another shape; both shapes are named.
        """
        self._require(key)
        tensor = self._left.pop(key)
        if shapes and tuple(tensor.shape) not in shapes:
            wanted = " or ".join(map(str, shapes))
            raise ValueError(f"{self.source}: {key} has shape {tuple(tensor.shape)}, and {target} needs {wanted}.")
        self._lines.append((key, str(tuple(tensor.shape)), target))
        return tensor.reshape(shapes[0]) if shapes else tensor

    def drop(self, key: str, reason: str) -> None:
        """Leaves a tensor out; the report gives the reason."""
        self._require(key)
        self._lines.append((key, str(tuple(self._left.pop(key).shape)), f"left out: {reason}"))

    def drop_all(self, prefix: str, reason: str) -> None:
        """Leaves out every tensor whose name begins with `prefix`, if there are any."""
        for key in [key for key in self._left if key.startswith(prefix)]:
            self.drop(key, reason)

    def report(self) -> str:
        """One line a tensor: source key, shape, target key.

        Raises:
            ValueError: tensors are left that nobody took or dropped; the first are named.
        """
        if self._left:
            shown = ", ".join(f"{key} {tuple(value.shape)}" for key, value in list(self._left.items())[:5])
            raise ValueError(
                f"{self.source} holds {len(self._left)} tensors that this conversion does not know ({shown}): "
                "the numbers would not be the source's without them."
            )
        widths = [max((len(line[column]) for line in self._lines), default=0) for column in (0, 1)]
        lines = [f"{key:{widths[0]}}  {shape:{widths[1]}}  -> {target}" for key, shape, target in self._lines]
        return "\n".join([f"{self.source}: {len(lines)} tensors", *lines])

    def _require(self, key: str) -> None:
        if key not in self._left:
            near = [other for other in self._left if other.rpartition(".")[2] == key.rpartition(".")[2]][:3]
            hint = f" It has {', '.join(near)}." if near else ""
            raise ValueError(f"{self.source} lacks the tensor {key}.{hint}")
