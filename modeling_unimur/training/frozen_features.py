"""Outputs of frozen towers, computed once and kept on disk."""

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm

from ..data.cache import cache_dir
from ..data.image_bytes import file_stamp, worker_count
from ..data.row_store import KEY_BYTES, KEY_TYPE, RowStore, StoredRows, key_of
from ..encoding.chunks import Batch, Preparation, PreparedBatch, prepare
from ..encoding.items import Item

logger = logging.getLogger(__name__)

# Also written when this time has passed, so that a killed run loses little on a slow machine.
_SECONDS = 60
# Increased whenever the rows on disk change for the same tower.
_VERSION = 2


@dataclass(frozen=True)
class FeatureOptions:
    """Options of computing and storing frozen features.

    Args:
        stored (`torch.dtype`): data type of the rows on disk. bfloat16 halves their size, with a relative error of at
            most 2^-8 in each value; the cosine between the bfloat16 and the float32 row is above 1 - 1e-5.
        workers (`int`, *optional*): number of processes that read and decode images. By default one fewer than the
            CPUs if there are many images, and none otherwise.
        image_batch, text_batch (`int`): number of items that pass through a tower at a time.
        shard_rows (`int`): number of rows in a file, which is the most that a killed run has to compute again.
    """

    stored: torch.dtype = torch.float32
    workers: "int | None" = None
    image_batch: int = 32
    text_batch: int = 128
    shard_rows: int = 4096


@dataclass
class CachedFeatures:
    """Features of a list of items.

    Args:
        rows (`StoredRows` of shape `(kept, width)`): not read before they are indexed.
        kept (`np.ndarray` of shape `(kept,)`): positions in the list that they belong to.
        present, computed (`int`): items whose rows were there, and rows that this call computed.
        skipped (`list`): `(position, reason)` of the items that have none.
        folder (`Path`): folder of the store.
    """

    rows: StoredRows
    kept: np.ndarray
    present: int
    computed: int
    folder: Path
    skipped: list = field(default_factory=list)

    def describe(self, what: str) -> str:
        """Describe the features in one line."""
        text = f"{what}: {len(self.kept):,} rows of width {self.rows.shape[1]}; {self.present:,} were there, "
        text += f"{self.computed:,} computed now, {len(self.skipped):,} skipped; in {self.folder}"
        return f"{text} (the first: {self.skipped[0][1]})" if self.skipped else text


def fingerprint(module: nn.Module, *extra: str) -> str:
    """Returns sixteen hexadecimal digits that change with any weight of the module, or with one of the extra
    strings."""
    digest = hashlib.sha256("\n".join(extra).encode())
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        # Memory is hashed where it lies: the weights of a large tower are not copied.
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def _settings(image_processor) -> str:
    """Returns the settings of an image processor without where it was loaded from."""
    settings = json.loads(image_processor.to_json_string())
    kept = {name: value for name, value in settings.items() if name not in ("auto_map", "processor_class")}
    return json.dumps(kept, indent=2, sort_keys=True) + "\n"


class _Writer:
    """Collects rows and writes them as shards, by number and by time."""

    def __init__(self, store: RowStore, rows: int):
        self.store, self.rows = store, rows
        self.count = 0
        self._start()

    def _start(self) -> None:
        self.parts, self.since = [], time.monotonic()
        self.keys: dict[bytes, None] = {}

    def add(self, keys: "list[bytes]", features: torch.Tensor) -> None:
        """Add rows, which are written by `flush` at the latest."""
        self.keys.update(dict.fromkeys(keys))
        self.parts.append(features.detach().cpu())

    def due(self) -> bool:
        """Return whether it is time to write."""
        return len(self.keys) >= self.rows or (bool(self.keys) and time.monotonic() - self.since > _SECONDS)

    def flush(self) -> None:
        """Write all rows."""
        if self.keys:
            self.store.append(list(self.keys), torch.cat(self.parts))
            self.count += len(self.keys)
        self._start()


def _open(kind: str, tower: nn.Module, options: FeatureOptions, extra: "tuple[str, ...]") -> RowStore:
    # "tower" is part of the names of stores since towers could run under autocast.
    about = {"kind": kind, "stored": str(options.stored), "tower": "None", "version": _VERSION}
    folder = cache_dir() / "features" / f"{kind}-{fingerprint(tower, json.dumps(about), *extra)}"
    if not (folder / "about.json").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        about["module"] = type(tower).__name__
        (folder / "about.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    return RowStore(folder, options.stored)


class _ImagePreparation(Preparation):
    """Prepares images for one frozen tower; the key of an image is that of its bytes."""

    def key(self, item: Item, data: bytes, payload: dict) -> bytes:
        """The key of the file's bytes."""
        return key_of(data)

    def process(self, kind: str, contents: list, payloads: list[dict]):
        """What the tower's image processor returns."""
        return self.processor(contents, return_tensors="pt")


class FrozenImages:
    """Features of images from one frozen image tower, kept by the content of the files.

    What a file holds is remembered by its path, size and time of change, so that a later call reads no file again.

    Args:
        tower: the frozen module; its weights name the store.
        encode: `pixel_values (batch, 3, height, width)`, and as keywords whatever else the image processor returns, to
            features `(batch, width)`.
        image_processor: the tower's.
        options (`FeatureOptions`, *optional*): how it runs.
    """

    def __init__(self, tower, encode: Callable, image_processor, options: "FeatureOptions | None" = None):
        self.tower, self.encode, self.image_processor = tower, encode, image_processor
        self.options = options or FeatureOptions()
        extra = (_settings(image_processor), type(image_processor).__name__)
        self.store = _open("pictures", tower, self.options, extra)
        self.contents = RowStore(cache_dir() / "features" / "file-contents", torch.uint8)

    def features(self, images: Sequence[str]) -> CachedFeatures:
        """Returns the features of images by address (`data.image_bytes`), and computes those that are missing.

        An image that is missing or cannot be decoded is skipped and reported.
        """
        stamps, keys, skipped = self._remembered(images)
        settled = self.store.find(keys) >= 0
        todo = np.flatnonzero(~settled & (stamps != b""))
        present, writer = int(settled.sum()), _Writer(self.store, self.options.shard_rows)
        preparation = _ImagePreparation(self.image_processor, self.store.keys())
        workers = worker_count(self.options.workers, len(todo)) if len(todo) else 0
        read: list[tuple[bytes, bytes]] = []

        def flush() -> None:
            writer.flush()  # before the contents are noted: a kill in between costs reading, not computing
            contents = np.array([content for _, content in read], dtype=KEY_TYPE).view(np.uint8)
            self.contents.append(
                [stamp for stamp, _ in read], torch.from_numpy(contents.reshape(-1, KEY_BYTES).copy())
            )
            read.clear()

        with tqdm(total=len(images), initial=len(images) - len(todo), desc="Images", disable=not len(todo)) as bar:
            for done in prepare(self._batches(images, todo), preparation, workers):
                for (position, item), key, reason in zip(done.batch.items, done.keys, done.reasons, strict=True):
                    if key is not None:
                        read.append((stamps[position], key))
                    if reason is None:
                        keys[position] = key
                        continue
                    skipped.append((position, f"{item.content}: {reason}"))
                    logger.warning("Left out: %s", skipped[-1][1])
                self._encode(done, writer)
                if writer.due() or len(read) >= 4 * self.options.shard_rows:
                    flush()
                bar.update(len(done.batch.items))
        flush()
        numbers = self.store.find(keys)
        kept = np.flatnonzero(numbers >= 0)
        present += len(kept) - int(settled.sum()) - writer.count
        return CachedFeatures(self.store.rows(numbers[kept]), kept, present, writer.count, self.store.folder, skipped)

    def _remembered(self, images: Sequence[str]) -> tuple[np.ndarray, np.ndarray, list]:
        """Stamps of the files, keys of those that have not changed since they were last read (empty for the others),
        and `(position, reason)` of those that are missing."""
        stamps, keys = (np.zeros(len(images), dtype=KEY_TYPE) for _ in range(2))
        missing = []
        for position, image in enumerate(images):
            try:
                stamps[position] = key_of(os.fsencode(file_stamp(image)))
            except OSError as error:
                missing.append((position, f"{image}: {error.strerror or error}"))
        numbers = self.contents.find(stamps)
        if (numbers >= 0).any():
            rows = self.contents.rows(numbers[numbers >= 0]).tensor().to(torch.uint8).numpy()
            keys[numbers >= 0] = np.ascontiguousarray(rows).view(KEY_TYPE).reshape(-1)
        return stamps, keys, missing

    def _batches(self, images: Sequence[str], todo: np.ndarray) -> Iterator[Batch]:
        for start in range(0, len(todo), self.options.image_batch):
            positions = todo[start : start + self.options.image_batch].tolist()
            yield Batch(
                0, "image", [(position, Item("image", "", images[position], "", "")) for position in positions]
            )

    @torch.inference_mode()
    def _encode(self, done: PreparedBatch, writer: _Writer) -> None:
        """Runs the tower on those images of a batch that are neither stored nor held: files may be copies."""
        fresh: dict[bytes, int] = {}
        for row, key in enumerate(done.keys[number] for number in done.rows):
            if key not in writer.keys and key not in self.store:
                fresh.setdefault(key, row)
        if not fresh:
            return
        inputs = dict(done.inputs)
        if len(fresh) < len(done.rows):
            inputs = {name: value[torch.tensor(list(fresh.values()))] for name, value in inputs.items()}
        writer.add(list(fresh), self.encode(inputs.pop("pixel_values"), **inputs))


class FrozenTexts:
    """Features of texts from one frozen text tower, kept by the texts.

    Args:
        tower: the frozen module; its weights name the store.
        encode: a list of strings to features `(texts, width)`; its attribute `key`, if it has one, says what else the
            features depend on, such as how texts are tokenised (`frozen_towers.TextEncoder`).
        options (`FeatureOptions`, *optional*): how it runs.
    """

    def __init__(self, tower, encode: Callable, options: "FeatureOptions | None" = None):
        self.tower, self.encode, self.options = tower, encode, options or FeatureOptions()
        self.store = _open("texts", tower, self.options, (getattr(encode, "key", ""),))

    @torch.inference_mode()
    def features(self, texts: Sequence[str]) -> CachedFeatures:
        """Returns the features of all texts, and computes those that are missing; equal texts are computed once."""
        keys = np.fromiter((key_of(text) for text in texts), dtype=KEY_TYPE, count=len(texts))
        missing = np.flatnonzero(self.store.find(keys) < 0)
        _, first = np.unique(keys[missing], return_index=True)
        todo = missing[np.sort(first)]
        writer, size = _Writer(self.store, self.options.shard_rows), self.options.text_batch
        with tqdm(total=len(texts), initial=len(texts) - len(todo), desc="Texts", disable=not len(todo)) as bar:
            for start in range(0, len(todo), 16 * size):
                window = [(texts[place], keys[place]) for place in todo[start : start + 16 * size]]
                window.sort(key=lambda pair: len(pair[0]))  # little padding
                for at in range(0, len(window), size):
                    lines, names = zip(*window[at : at + size], strict=True)
                    writer.add(list(names), self.encode(list(lines)))
                    if writer.due():
                        writer.flush()
                    bar.update(len(lines))
        writer.flush()
        rows = self.store.rows(self.store.find(keys))
        return CachedFeatures(rows, np.arange(len(texts)), len(texts) - len(missing), len(todo), self.store.folder)


def text_features(tower: nn.Module, encode: Callable[[list], torch.Tensor], texts: Iterable[str]) -> torch.Tensor:
    """Returns the features `(texts, width)` of texts from a frozen text tower, in memory; `encode` takes a list of
    strings."""
    return FrozenTexts(tower, encode).features(list(texts)).rows.tensor()
