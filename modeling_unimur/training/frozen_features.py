"""Outputs of frozen towers, computed once and kept on disk."""

import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm.auto import tqdm

from ..data.packages import cache_dir
from ..image_loading import load_image

logger = logging.getLogger(__name__)

# Items a file; a killed run loses at most as many.
_SHARD = 512


def fingerprint(module: nn.Module, *extra: str) -> str:
    """Sixteen hexadecimal digits that change with any weight of the module, or with a string that goes with it."""
    digest = hashlib.sha256("\n".join(extra).encode())
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _file_hash(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:32]


def _text_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class FeatureStore:
    """Feature rows by content hash, in one folder for one state of one tower.

    Each shard is written whole, so a run that was killed goes on where it stopped.

    Args:
        folder: of this store; made when the first shard is written.
    """

    def __init__(self, folder: "str | os.PathLike"):
        self.folder = Path(folder)
        self.rows: dict[str, torch.Tensor] = {}
        for shard in sorted(self.folder.glob("*.safetensors")):
            self.rows.update(load_file(shard))

    def compute(
        self, items: "dict[str, object]", encode: Callable[[list], "tuple[list[int], torch.Tensor]"], **bar
    ) -> None:
        """Encodes what is missing.

        Args:
            items: content hash -> item.
            encode: a list of items to the positions it could read and their features `(positions, width)`.
            bar: arguments of the progress bar.
        """
        missing = [key for key in items if key not in self.rows]
        for start in tqdm(range(0, len(missing), _SHARD), disable=not missing, **bar):
            keys = missing[start : start + _SHARD]
            positions, features = encode([items[key] for key in keys])
            shard = {keys[p]: row.clone() for p, row in zip(positions, features.float().cpu(), strict=True)}
            if shard:
                self._write(shard)
                self.rows.update(shard)

    def _write(self, shard: dict) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        name = hashlib.sha256("".join(sorted(shard)).encode()).hexdigest()[:16]
        aside = self.folder / f".{name}.{os.getpid()}"
        save_file(shard, aside)
        os.replace(aside, self.folder / f"{name}.safetensors")


def _store(module: nn.Module, kind: str, *extra: str) -> FeatureStore:
    return FeatureStore(cache_dir() / "features" / f"{kind}-{fingerprint(module, *extra)}")


def picture_features(
    tower: nn.Module,
    encode: Callable[[torch.Tensor], torch.Tensor],
    image_processor,
    paths: Sequence[str],
    batch_size: int = 32,
) -> "tuple[torch.Tensor, list[int]]":
    """Features of picture files from a frozen image tower.

    Args:
        tower: the frozen module, whose weights name the store.
        encode: `pixel_values (batch, 3, height, width)` to features `(batch, width)`.
        image_processor: the tower's.
        paths: picture files; one that cannot be read is left out and reported in the log.

    Returns:
        features `(readable, width)` and the positions in `paths` that they belong to.
    """
    store = _store(tower, "pictures", image_processor.to_json_string())
    keys = [_file_hash(path) for path in paths]

    @torch.inference_mode()
    def run(files: list) -> "tuple[list[int], torch.Tensor]":
        positions, pictures, parts = [], [], []
        for position, file in enumerate(files):
            try:
                pictures.append(load_image(file))
                positions.append(position)
            except (ValueError, OSError) as error:
                logger.warning("Left out: %s", error)
        for start in range(0, len(pictures), batch_size):
            pixels = image_processor(pictures[start : start + batch_size], return_tensors="pt")["pixel_values"]
            parts.append(encode(pixels))
        return positions, torch.cat(parts) if parts else torch.empty(0, 0)

    store.compute(dict(zip(keys, paths, strict=True)), run, desc="Picture features", unit=f"x{_SHARD}")
    kept = [position for position, key in enumerate(keys) if key in store.rows]
    return torch.stack([store.rows[keys[position]] for position in kept]), kept


def text_features(
    tower: nn.Module,
    encode: Callable[[list], torch.Tensor],
    texts: Iterable[str],
    batch_size: int = 128,
) -> torch.Tensor:
    """Features `(texts, width)` of texts from a frozen text tower; `encode` takes a list of strings."""
    texts = list(texts)
    store = _store(tower, "texts")
    keys = [_text_hash(text) for text in texts]

    @torch.inference_mode()
    def run(lines: list) -> "tuple[list[int], torch.Tensor]":
        order = sorted(range(len(lines)), key=lambda i: len(lines[i]))  # little padding
        parts = [encode([lines[i] for i in order[s : s + batch_size]]) for s in range(0, len(order), batch_size)]
        return order, torch.cat(parts)

    store.compute(dict(zip(keys, texts, strict=True)), run, desc="Text features", unit=f"x{_SHARD}")
    return torch.stack([store.rows[key] for key in keys])


__all__ = ["FeatureStore", "fingerprint", "picture_features", "text_features"]
