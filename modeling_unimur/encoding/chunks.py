"""The unit of work: some items, prepared by worker processes, encoded and stored together."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from ..data.image_files import printable
from ..data.row_store import KEY_TYPE, RowStore, key_of
from ..image_loading import load_image
from ..modeling_open_clip import fuses_captions, image_inputs
from .encoder import Encoder
from .items import Item, read_content
from .manifest import Record, write_records

# Batches that each worker prepares ahead.
_AHEAD = 2


@dataclass
class Batch:
    """Items of one kind that are prepared together.

    Args:
        chunk: number of the chunk that they belong to.
        kind: kind of all of them.
        items: with their places in the source.
    """

    chunk: int
    kind: str
    items: list[tuple[int, Item]]


@dataclass
class PreparedBatch:
    """A batch after its preparation.

    Args:
        batch: as it was.
        keys: keys of each item's content, None where it could not be read.
        reasons: why an item failed, None for the others.
        rows: numbers of the items that `inputs` are of, row by row: those whose content is new.
        inputs: what the processor returns.
    """

    batch: Batch
    keys: list[bytes | None] = field(default_factory=list)
    reasons: list[str | None] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    inputs: dict[str, torch.Tensor] = field(default_factory=dict)

    def fail(self, key: bytes, reason: str) -> None:
        """Mark all items with a content as failed."""
        for number, other in enumerate(self.keys):
            if other == key:
                self.reasons[number] = reason


class Preparation(Dataset):
    """Prepares batches: reads, hashes, decodes and processes their items.

    Args:
        processor: processor of the model.
        stored: sorted keys of contents that are encoded already; those are not decoded.
    """

    def __init__(self, processor, stored: np.ndarray):
        self.processor, self.stored = processor, stored
        self.fuses = fuses_captions(processor)

    def __getitem__(self, batch: Batch) -> PreparedBatch:
        done, contents, payloads, fresh = PreparedBatch(batch), [], [], set()
        for number, (_, item) in enumerate(batch.items):
            key = reason = None
            try:
                data = read_content(item)
                payload = json.loads(item.payload) if self.fuses and item.kind == "image" else {}
                key = self.key(item, data, payload)
                if key not in fresh and not self._is_stored(key):
                    contents.append(item.content if item.kind == "text" else load_image(data, name=item.content))
                    payloads.append(payload)
                    done.rows.append(number)
                    fresh.add(key)
            except Exception as error:  # whatever one item raises is that item's failure
                reason = reason_of(error, item.content)
            done.keys.append(key)
            done.reasons.append(reason)
        if contents:
            done.inputs = self._inputs(done, contents, payloads)
        return done

    def key(self, item: Item, data: bytes, payload: dict) -> bytes:
        """Return the key under which the vector of a content is stored."""
        return content_key(item.kind, data, payload.get("caption"))

    def process(self, kind: str, contents: list, payloads: list[dict]):
        """Return the inputs of the model for texts or decoded images."""
        if kind == "text":
            return self.processor.process_texts(contents)
        return image_inputs(self.processor, contents, payloads)

    def _inputs(self, done: PreparedBatch, contents: list, payloads: list[dict]) -> dict[str, torch.Tensor]:
        """What the processor makes of the contents of `done.rows`, without those that it refuses."""

        def process(numbers: list[int]) -> dict[str, torch.Tensor]:
            chosen = [contents[number] for number in numbers]
            return dict(self.process(done.batch.kind, chosen, [payloads[number] for number in numbers]))

        everything = list(range(len(contents)))
        try:
            return process(everything)
        except Exception:
            taken = []
            for number in everything:
                try:
                    process([number])
                    taken.append(number)
                except Exception as error:
                    done.fail(done.keys[done.rows[number]], reason_of(error))
            if len(taken) == len(everything):
                raise
            done.rows = [done.rows[number] for number in taken]
            return process(taken) if taken else {}

    def _is_stored(self, key: bytes) -> bool:
        if not len(self.stored):
            return False
        wanted = np.array(key, dtype=KEY_TYPE)
        return bool(self.stored[min(int(np.searchsorted(self.stored, wanted)), len(self.stored) - 1)] == wanted)


def reason_of(error: Exception, name: str = "") -> str:
    """Return why an item could not be encoded, without the item's name at the start of the message."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error).removeprefix(f"{name}: ").strip()
    if not isinstance(error, (OSError, ValueError)) or not text:
        text = f"{type(error).__name__}: {text}"
    return printable(text)


def content_key(kind: str, data: bytes, caption: object = None) -> bytes:
    """Key of a content: the same bytes as a text and as an image are two contents, and so is an image with another
    caption that is embedded with it."""
    if isinstance(caption, str) and caption:
        data = len(data).to_bytes(8, "big") + data + caption.encode("utf-8", "surrogatepass")
        kind = f"captioned {kind}"
    return key_of(kind.encode() + b"\0" + data)


def prepare(batches: Iterable[Batch], preparation: Preparation, workers: int) -> Iterator[PreparedBatch]:
    """The batches in order, prepared by `workers` processes, or in this one with 0; no more are taken from `batches`
    than are worked on."""
    ahead = {"prefetch_factor": _AHEAD} if workers else {}
    return iter(DataLoader(preparation, batch_size=None, sampler=batches, num_workers=workers, **ahead))


Chunk = list[tuple[int, Item]]


class ChunkEncoder:
    """Encodes chunks into a work folder: a shard of new vectors, then the records of all items, each there whole or
    not at all. What is killed in between is done again for the records alone.

    Args:
        encoder: the model's part.
        store: vectors by content.
        records: folder for the records.
        batch_size: items that the model sees at a time.
        workers: processes that prepare them.
    """

    def __init__(self, encoder: Encoder, store: RowStore, records: Path, batch_size: int, workers: int):
        self.encoder, self.store, self.records = encoder, store, records
        self.batch_size, self.workers = batch_size, workers

    def encode(self, chunks: Iterable[Chunk], done: Callable[[int], object] = lambda items: None) -> Counter[str]:
        """Encode chunks. `done` is called with the number of items of each batch.

        Returns:
            Numbers of items: `encoded`, contents that the model saw; `known`, whose content was encoded before;
            `failed`, that could not be read or decoded.
        """
        preparation, total = Preparation(self.encoder.processor, self.store.keys()), Counter()
        waiting: list[tuple[PreparedBatch, torch.Tensor]] = []
        pending: set[bytes] = set()
        for prepared in prepare(self._batches(chunks), preparation, self.workers):
            if waiting and waiting[0][0].batch.chunk != prepared.batch.chunk:
                total.update(self._keep(waiting))
                waiting, pending = [], set()
            # The workers do not know of each other's contents.
            keys = [prepared.keys[row] for row in prepared.rows]
            there = self.store.holds(keys) if keys else ()
            fresh = [n for n, (key, held) in enumerate(zip(keys, there, strict=True)) if not (held or key in pending)]
            pending.update(keys)
            vectors, inputs = torch.empty(0, self.encoder.width), prepared.inputs
            if fresh:
                if len(fresh) < len(keys):
                    inputs = {name: value[fresh] for name, value in inputs.items()}
                vectors = self.encoder.vectors(prepared.batch.kind, inputs)
            prepared.rows, prepared.inputs = [prepared.rows[n] for n in fresh], {}  # images take more than all else
            waiting.append((prepared, vectors))
            done(len(prepared.batch.items))
        if waiting:
            total.update(self._keep(waiting))
        return total

    def _batches(self, chunks: Iterable[Chunk]) -> Iterator[Batch]:
        for number, chunk in enumerate(chunks):
            for kind in ("image", "text"):
                items = [entry for entry in chunk if entry[1].kind == kind]
                for start in range(0, len(items), self.batch_size):
                    yield Batch(number, kind, items[start : start + self.batch_size])

    def _keep(self, prepared: list[tuple[PreparedBatch, torch.Tensor]]) -> dict[str, int]:
        rows: dict[bytes, torch.Tensor] = {}
        records, failed = [], 0
        for batch, vectors in prepared:
            rows.update({batch.keys[row]: vector for row, vector in zip(batch.rows, vectors, strict=True)})
        broken = [key for key, vector in rows.items() if not torch.isfinite(vector).all()]
        for key in broken:
            del rows[key]
            for batch, _ in prepared:
                batch.fail(key, "the model gives it no vector of finite numbers")
        for batch, _ in prepared:
            for (place, item), key, reason in zip(batch.batch.items, batch.keys, batch.reasons, strict=True):
                failed += reason is not None
                written = None if reason is not None else key.hex()
                records.append(Record(place, item.kind, item.id, item.stamp, item.payload, written, reason))
        if rows:
            self.store.append(list(rows), torch.stack(list(rows.values())))
        write_records(self.records, f"{records[0].place:012d}", records)
        return {"encoded": len(rows), "known": len(records) - failed - len(rows), "failed": failed}
