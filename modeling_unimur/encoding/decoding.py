"""Items read, hashed, decoded and prepared for the model, by worker processes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from ..data.picture_bytes import decode_picture
from ..data.picture_files import printable
from ..data.row_store import KEY_TYPE, key_of
from ..modeling_open_clip import fuses_captions, picture_inputs
from .items import Item
from .reading import read_content

# Batches that each worker prepares ahead.
_AHEAD = 2


@dataclass
class Batch:
    """Items of one kind that are prepared together.

    Args:
        chunk: number of the chunk that they belong to.
        kind: of all of them.
        items: with their places in the source.
    """

    chunk: int
    kind: str
    items: list[tuple[int, Item]]


@dataclass
class PreparedBatch:
    """What became of a batch.

    Args:
        batch: as it was.
        keys: of each item's content, None for those that failed.
        reasons: why, None for the others.
        rows: numbers of the items that `inputs` are of, row by row: those whose content is new.
        inputs: what the processor returns.
    """

    batch: Batch
    keys: list[bytes | None] = field(default_factory=list)
    reasons: list[str | None] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    inputs: dict[str, torch.Tensor] = field(default_factory=dict)

    def fail(self, key: bytes, reason: str) -> None:
        """Notes that a content could not be encoded, for all items that have it."""
        for number, other in enumerate(self.keys):
            if other == key:
                self.keys[number], self.reasons[number] = None, reason


class Preparation(Dataset):
    """Prepares a batch.

    Args:
        processor: of the model.
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
                key = content_key(item.kind, data, payload.get("caption"))
                if key not in fresh and not self._is_stored(key):
                    contents.append(item.content if item.kind == "text" else decode_picture(data, item.content))
                    payloads.append(payload)
                    done.rows.append(number)
                    fresh.add(key)
            except Exception as error:  # whatever one item raises is that item's failure
                key, reason = None, reason_of(error, item.content)
            done.keys.append(key)
            done.reasons.append(reason)
        if contents:
            done.inputs = self._inputs(done, contents, payloads)
        return done

    def _inputs(self, done: PreparedBatch, contents: list, payloads: list[dict]) -> dict[str, torch.Tensor]:
        """What the processor makes of the contents of `done.rows`, without those that it refuses."""

        def process(numbers: list[int]) -> dict[str, torch.Tensor]:
            chosen = [contents[number] for number in numbers]
            if done.batch.kind == "text":
                return dict(self.processor.process_texts(chosen))
            return dict(picture_inputs(self.processor, chosen, [payloads[number] for number in numbers]))

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
    """Why an item could not be encoded, without the name that a message begins with."""
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
    return iter(
        DataLoader(preparation, batch_size=None, sampler=batches, num_workers=workers, collate_fn=_as_it_is, **ahead)
    )


def _as_it_is(batch: PreparedBatch) -> PreparedBatch:
    return batch


__all__ = ["Batch", "Preparation", "PreparedBatch", "content_key", "prepare", "reason_of"]
