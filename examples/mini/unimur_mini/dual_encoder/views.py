"""Flips and crops of images through a frozen image tower, computed once and kept on disk."""

import contextlib
import hashlib
import json
import logging
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from modeling_unimur.data.cache import cache_dir
from modeling_unimur.data.image_bytes import decode_image, read_image_bytes
from modeling_unimur.data.row_store import KEY_TYPE, RowStore, key_of
from modeling_unimur.training.frozen_features import fingerprint

logger = logging.getLogger(__name__)

# Raised whenever the views themselves change, so that rows of older ones are not read.
_VERSION = 1
# Side of a crop against the image's own: below 1 it cuts, above 1 it adds white, as clip art stands on white.
_SIDES = (0.7, 1.15)
_ASPECTS = (0.8, 1.25)
# Rows are written at the latest after this time, so that a killed run loses little.
_SECONDS = 60


class ViewOptions(NamedTuple):
    """Which views are made of an image, and how the tower runs on them.

    Args:
        views: of each image, beside the image itself. The odd ones are flipped.
        seed: of the crops.
        tower (`torch.dtype`, *optional*): bfloat16 runs the tower under autocast: these rows are for training alone.
        batch: images, each with all its views, that pass the tower together.
        workers: processes that read, cut and preprocess images.
    """

    views: int = 3
    seed: int = 0
    tower: "torch.dtype | None" = None
    batch: int = 12
    workers: int = 1


def is_flipped(view: int) -> bool:
    """Whether this view is a mirror image. View 0 is the image itself."""
    return view % 2 == 1


def draw_view(image: Image.Image, view: int, key: bytes, seed: int = 0) -> Image.Image:
    """One view of an image: the same for the same content, number and seed.

    Args:
        image: RGB.
        view: 0 is the image itself, 1 its mirror image; 2 and higher are crops, of the mirror image if odd.
        key: names the image's content.
        seed: of the crops.

    Returns:
        An RGB image; what a crop takes in from outside of the image is white.
    """
    if is_flipped(view):
        image = ImageOps.mirror(image)
    if view < 2:
        return image
    digest = hashlib.sha256(b"%d:%d:" % (seed, view) + key).digest()
    draw = np.random.default_rng(int.from_bytes(digest[:8], "big"))
    side, aspect = draw.uniform(*_SIDES), np.exp(draw.uniform(*np.log(_ASPECTS)) / 2)
    width, height = (max(1, round(size)) for size in (image.width * side * aspect, image.height * side / aspect))
    left, top = (
        round(min(0, own - cut) + draw.uniform() * abs(own - cut))
        if cut > own
        else round(draw.uniform() * (own - cut))
        for own, cut in ((image.width, width), (image.height, height))
    )
    canvas = Image.new("RGB", (width, height), "white")
    canvas.paste(image, (-left, -top))
    return canvas


class _Views(Dataset):
    """Batches of images with the preprocessed views of each."""

    def __init__(self, paths: Sequence[str], todo: np.ndarray, image_processor, options: ViewOptions):
        self.paths, self.todo, self.image_processor, self.options = paths, todo, image_processor, options

    def __len__(self) -> int:
        return -(-len(self.todo) // self.options.batch)

    def __getitem__(self, number: int):
        positions = self.todo[number * self.options.batch : (number + 1) * self.options.batch].tolist()
        kept, failures, views = [], [], []
        for position in positions:
            try:
                data = read_image_bytes(self.paths[position])
                image = decode_image(data, self.paths[position])
            except (OSError, ValueError) as error:
                failures.append((position, str(error)))
                continue
            kept.append(position)
            content = key_of(data)
            # A crop of a huge drawing is resized anyway: shrinking it first costs less.
            image.thumbnail((1024, 1024))
            views.extend(
                draw_view(image, view, content, self.options.seed) for view in range(1, self.options.views + 1)
            )
        pixels = self.image_processor(views, return_tensors="pt")["pixel_values"] if views else None
        return kept, failures, pixels


class FrozenImageViews:
    """Features of views of images from one frozen image tower.

    Args:
        tower: the frozen module; its weights name the store.
        encode: `pixel_values (batch, 3, height, width)` to features `(batch, width)`.
        image_processor: the tower's.
        options (`ViewOptions`, *optional*): which views, and how the tower runs.
    """

    def __init__(
        self,
        tower: nn.Module,
        encode: Callable[[torch.Tensor], torch.Tensor],
        image_processor,
        options: "ViewOptions | None" = None,
    ):
        self.tower, self.encode, self.image_processor = tower, encode, image_processor
        self.options = options or ViewOptions()
        about = {
            "kind": "picture-views",
            "version": _VERSION,
            "seed": self.options.seed,
            "tower": str(self.options.tower),
            "sides": _SIDES,
            "aspects": _ASPECTS,
        }
        extra = (json.dumps(about), image_processor.to_json_string(), type(image_processor).__name__)
        self.folder = cache_dir() / "features" / f"picture-views-{fingerprint(tower, *extra)}"
        self.store = RowStore(self.folder)

    @torch.inference_mode()
    def features(self, paths: Sequence[str]) -> torch.Tensor:
        """Features of all views, computed where they are not there yet; a killed call is taken up where it was.

        Args:
            paths: image files that can be decoded.

        Returns:
            `(images, views, width)`, in memory.

        Raises:
            ValueError: an image cannot be decoded; the message names it.
        """
        views = self.options.views
        keys = np.array(
            [[_key(path, view, self.options.seed) for view in range(1, views + 1)] for path in paths], dtype=KEY_TYPE
        ).reshape(len(paths), views)
        todo = np.flatnonzero((self.store.find(keys.reshape(-1)).reshape(keys.shape) < 0).any(axis=1))
        # Files that are links to one another are drawn once.
        _, first = np.unique(keys[todo, 0], return_index=True)
        todo = todo[np.sort(first)]
        if len(todo):
            self._compute(paths, keys, todo)
        numbers = self.store.find(keys.reshape(-1))
        rows = self.store.rows(numbers).tensor()
        return rows.reshape(len(paths), views, -1)

    def _compute(self, paths: Sequence[str], keys: np.ndarray, todo: np.ndarray) -> None:
        batches = _Views(paths, todo, self.image_processor, self.options)
        loader = DataLoader(batches, batch_size=None, num_workers=self.options.workers, collate_fn=_as_it_is)
        names, rows, since = [], [], time.monotonic()
        device = next((p.device.type for p in self.tower.parameters()), "cpu")

        def flush() -> None:
            if names:
                self.store.append(list(names), torch.cat(rows))
            names.clear()
            rows.clear()

        with tqdm(total=len(todo), desc=f"Views of images ({self.options.views} each)") as bar:
            for kept, failures, pixels in loader:
                if failures:
                    flush()
                    raise ValueError(f"Views of an image that cannot be decoded: {failures[0][1]}")
                casting = (
                    contextlib.nullcontext()
                    if self.options.tower is None
                    else torch.autocast(device, dtype=self.options.tower)
                )
                with casting:
                    features = self.encode(pixels).float().cpu()
                names.extend(keys[kept].reshape(-1).tolist())
                rows.append(features)
                if time.monotonic() - since > _SECONDS:
                    flush()
                    since = time.monotonic()
                bar.update(len(kept))
        flush()


def _key(path: str, view: int, seed: int) -> bytes:
    return key_of(f"{view}:{seed}:".encode() + key_of(read_image_bytes(path)))


def _as_it_is(batch):
    return batch
