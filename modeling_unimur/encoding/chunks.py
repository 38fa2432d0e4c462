"""The unit of work: some items, encoded and stored together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from ..data.row_store import RowStore
from .decoding import Batch, Preparation, PreparedBatch, prepare
from .encoder import Encoder
from .items import Item
from .manifest import Record, write_records


@dataclass
class Counts:
    """What encoding came to, in items.

    Args:
        encoded: contents that the model saw.
        known: whose content was encoded before.
        failed: that could not be read or decoded.
    """

    encoded: int = 0
    known: int = 0
    failed: int = 0

    def add(self, other: Counts) -> None:
        """Adds those of another part."""
        self.encoded += other.encoded
        self.known += other.known
        self.failed += other.failed


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

    def encode(self, chunks: Iterable[Chunk], done: Callable[[int], object] = lambda items: None) -> Counts:
        """Encodes chunks; `done` hears of each batch's number of items."""
        preparation, total = Preparation(self.encoder.processor, self.store.keys()), Counts()
        waiting: list[tuple[PreparedBatch, torch.Tensor]] = []
        pending: set[bytes] = set()
        for prepared in prepare(self._batches(chunks), preparation, self.workers):
            if waiting and waiting[0][0].batch.chunk != prepared.batch.chunk:
                total.add(self._keep(waiting))
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
            total.add(self._keep(waiting))
        return total

    def _batches(self, chunks: Iterable[Chunk]) -> Iterator[Batch]:
        for number, chunk in enumerate(chunks):
            for kind in ("image", "text"):
                items = [entry for entry in chunk if entry[1].kind == kind]
                for start in range(0, len(items), self.batch_size):
                    yield Batch(number, kind, items[start : start + self.batch_size])

    def _keep(self, prepared: list[tuple[PreparedBatch, torch.Tensor]]) -> Counts:
        rows: dict[bytes, torch.Tensor] = {}
        records, counts = [], Counts()
        for batch, vectors in prepared:
            rows.update({batch.keys[row]: vector for row, vector in zip(batch.rows, vectors, strict=True)})
        broken = [key for key, vector in rows.items() if not torch.isfinite(vector).all()]
        for key in broken:
            del rows[key]
            for batch, _ in prepared:
                batch.fail(key, "the model gives it no vector of finite numbers")
        for batch, _ in prepared:
            for (place, item), key, reason in zip(batch.batch.items, batch.keys, batch.reasons, strict=True):
                counts.failed += key is None
                written = None if key is None else key.hex()
                records.append(Record(place, item.kind, item.id, item.stamp, item.payload, written, reason))
        if rows:
            self.store.append(list(rows), torch.stack(list(rows.values())))
        write_records(self.records, f"{records[0].place:012d}", records)
        counts.encoded = len(rows)
        counts.known = len(records) - counts.failed - counts.encoded
        return counts


__all__ = ["Chunk", "ChunkEncoder", "Counts"]
