"""Embeds queries and candidates of all systems once and caches them, so that a killed run resumes."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from ..conversation import read_conversation
from ..data.shards import read_shard, write_shard
from ..image_loading import image_bytes, load_image, source_name
from ..memory_index import Coherence
from ..prefix_cache import content_key
from .metrics import right_ranks
from .report import Figures
from .systems.base import BOTH, Gallery, Messages, System

logger = logging.getLogger(__name__)

# Items of one batch, after which what was computed is on the disk.
_TEXTS, _IMAGES, _DIALOGUES = 512, 64, 8
# Scores that are in memory at a time.
_CELLS = 2**25


class Chunks:
    """Keeps arrays on disk, one per batch, with checksums.

    Args:
        folder: `system/kind`, made when the first is written; None keeps nothing.
        items: what the arrays are made of, in order. Other items have other files.
    """

    def __init__(self, folder: Path | None, items: Sequence[str]):
        self.folder = None
        if folder is not None:
            digest = hashlib.sha256("/".join(folder.parts[-2:]).encode())
            for item in items:
                digest.update(hashlib.sha256(item.encode("utf-8", "surrogatepass")).digest())
            self.folder = folder / digest.hexdigest()[:16]

    def get(self, number: int) -> np.ndarray | None:
        """Returns the array of a batch, or None if it is missing or damaged."""
        if self.folder is None:
            return None
        return read_shard(self.folder / f"{number:06d}.safetensors", lambda tensors: tensors["array"].numpy())

    def put(self, number: int, array: np.ndarray) -> None:
        """Writes the array of a batch atomically."""
        if self.folder is not None:
            write_shard(self.folder, f"{number:06d}", {"array": torch.from_numpy(array)})


@dataclass
class Encoded:
    """One system's queries and candidates.

    Args:
        system: system of the vectors; None for vectors alone.
        queries: `(queries, width)`, or what a system without vectors makes of the queries.
        candidates: kind -> `(candidates, width)`, NaN where an image cannot be read; or what a system without vectors
            makes of the candidates.
        ret: logarithm of the probability of [RET] after each query; None where the model was not trained to say it.
        coherence: options of coherent replies, where that is how these are ranked.
        is_image: which candidates `(candidates,)` of the kind `"both"`, one index of texts and images, are images.
    """

    system: System | None
    queries: Any
    candidates: dict[str, Any] = field(default_factory=dict)
    ret: np.ndarray | None = None
    coherence: Coherence | None = None
    is_image: np.ndarray | None = None

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds that can be ranked."""
        return tuple(self.candidates)

    def scores(self, kind: str, rows: np.ndarray, candidates: np.ndarray | None = None) -> np.ndarray:
        """Returns scores `(rows, candidates)`; higher is better. Minus infinity for a candidate that cannot be read,
        and in one index of texts and images for one of the other kind.

        Args:
            kind: kind of the candidates.
            rows, candidates: numbers of queries and of candidates; all candidates by default.
        """
        held = kind if kind in self.candidates else BOTH
        if self.system is None or self.system.has_vectors:
            vectors = self.candidates[held]
            found = self.queries[rows] @ (vectors if candidates is None else vectors[candidates]).T
        else:
            found = np.asarray(self.system.scores([self.queries[row] for row in rows], self.candidates, held))
            found = found if candidates is None else found[:, candidates]
        absent = np.isnan(found)
        if held != kind:
            other = self.is_image != (kind == "image")
            absent |= other if candidates is None else other[candidates]
        return np.where(absent, -np.inf, found)

    def about(self) -> dict[str, object]:
        """Returns what a report says about the system."""
        found: dict[str, object] = {"sees": self.system.sees}
        if self.coherence is not None:
            found["coherence"] = asdict(self.coherence)
        named = {"source": self.system.source, "revision": self.system.revision}
        return found | {name: value for name, value in named.items() if value}

    def gold_ranks(
        self, kind: str, queries: np.ndarray, golds: np.ndarray, excluded: Sequence[Sequence[int]] | None = None
    ) -> np.ndarray:
        """Returns the rank `(wanted,)` of each query's relevant candidate among all, by `right_ranks`; 0 where the
        system does not rank the kind.

        Args:
            kind: kind of the candidates.
            queries (`(wanted,)`), golds (`(wanted,)`): numbers of queries, and of their right candidates.
            excluded: for each query, candidates that do not compete.
        """
        queries, golds = np.asarray(queries), np.asarray(golds)
        ranks = np.zeros(len(queries), dtype=np.int64)
        if kind not in self.kinds or not len(queries):
            return ranks
        block = max(_CELLS // max(self.scores(kind, queries[:1]).shape[1], 1), 1)
        for start in range(0, len(queries), block):
            rows = slice(start, start + block)
            scores = self.scores(kind, queries[rows])
            right = np.arange(scores.shape[1]) == golds[rows, None]
            for place, hidden in enumerate(() if excluded is None else excluded[rows]):
                scores[place, [number for number in hidden if not right[place, number]]] = -np.inf
            ranks[rows] = right_ranks(scores, right)
        return ranks

    def query_ranks(self, kind: str, queries: np.ndarray, golds: np.ndarray) -> np.ndarray:
        """Ranks in the other direction: the rank `(distinct,)` of the best query of each distinct relevant candidate
        among all queries, in the order of `np.unique(golds)`. Arguments as `gold_ranks`."""
        golds = np.asarray(golds)
        wanted = np.unique(golds)
        ranks = np.zeros(len(wanted), dtype=np.int64)
        if kind not in self.kinds:
            return ranks
        block = max(_CELLS // max(len(golds), 1), 1)
        for start in range(0, len(wanted), block):
            part = wanted[start : start + block]
            ranks[start : start + block] = right_ranks(
                self.scores(kind, queries, part).T, golds[None, :] == part[:, None]
            )
        return ranks


def work_folder(system: System, work: Path | None) -> Path | None:
    """Returns the folder of a system's cached batches, or None without a folder or a `revision`."""
    if work is None or not system.revision:
        return None
    name = re.sub(r"\W+", "-", system.name).strip("-").lower()
    return work / f"{name}-{hashlib.sha256(f'{system.name} {system.revision}'.encode()).hexdigest()[:12]}"


class Evaluator:
    """Runs systems on the queries and candidates of a task.

    Args:
        systems: fitted where they learn. Those that share a dual encoder share its work.
        work: where finished batches are kept, for systems with a `revision`; a run that was killed computes the batch
            again that it was in.

    Attributes:
        unreadable: ids of the images that could not be read; they are no candidates.

    Raises:
        ValueError: no system, or two of one name.
    """

    def __init__(self, systems: Sequence[System], work: Path | None = None):
        names = [system.name for system in systems]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"An evaluation needs systems of different names, got {names}.")
        self.systems, self.work = list(systems), work
        self.unreadable: dict[str, None] = {}
        self._image_key = cache(image_key)

    def encode(self, groups: Sequence[Sequence[Messages]], gallery: Gallery) -> dict[str, Encoded]:
        """Embeds the contexts of all dialogues and all candidates, by every system.

        Args:
            groups: for each dialogue its contexts.
            gallery: all candidates, each once.

        Returns:
            `dict[str, Encoded]`: by the systems' names.
        """
        self._image_key = cache(image_key)  # files may have changed since
        candidates: dict[str, dict] = {system.name: {} for system in self.systems}
        for kind in gallery.kinds():
            chosen = [system for system in self.systems if kind in system.kinds]
            for name, array in self._candidates([s for s in chosen if s.has_vectors], kind, gallery).items():
                candidates[name][kind] = array
            for system in chosen:
                if not system.has_vectors:
                    candidates[system.name][kind] = system.encode_candidates(gallery, kind)
        for note in self.notes():
            logger.warning(note)
        found = {}
        for system in self.systems:
            queries, ret = self._queries(system, groups)
            found[system.name] = Encoded(system, queries, candidates[system.name], ret)
        return found

    def evaluate(
        self,
        groups: Sequence[Sequence[Messages]],
        gallery: Gallery,
        measure: Callable[[Encoded], Figures],
        extend: Callable[[dict[str, Encoded]], dict[str, Encoded]] | None = None,
    ) -> dict[str, Figures]:
        """Encodes everything and computes the figures of every system.

        Args:
            groups, gallery: as `encode`.
            measure: gives the figures of one system; what the system is, and the seconds, are added to them.
            extend (*optional*): adds rows that follow from those that were encoded.
        """
        encoded, found = self.encode(groups, gallery), {}
        for name, system in (encoded if extend is None else extend(encoded)).items():
            start = time.perf_counter()
            found[name] = measure(system)
            found[name].about = system.about() | {"seconds": round(time.perf_counter() - start, 3)}
        return found

    def notes(self) -> list[str]:
        """Returns notes on skipped images."""
        if not self.unreadable:
            return []
        first = next(iter(self.unreadable))
        return [f"{len(self.unreadable)} images cannot be read, such as {first}; they are no candidates."]

    def _candidates(self, systems: Sequence[System], kind: str, gallery: Gallery) -> dict[str, np.ndarray]:
        """Encodes all candidates of a kind, by every system."""
        count = len(gallery.texts) if kind == "text" else len(gallery.images)
        size = _TEXTS if kind == "text" else _IMAGES
        folders = {system.name: work_folder(system, self.work) for system in systems}
        items = gallery.texts
        if kind == "image":
            keys = map(self._key_of, gallery.images if any(folders.values()) else ())
            items = [f"{key}\t{words}" for key, words in zip(keys, gallery.image_words, strict=False)]
        kept = {name: Chunks(folder and folder / kind, items) for name, folder in folders.items()}
        parts: dict[str, list] = {system.name: [] for system in systems}
        for number, start in enumerate(tqdm(range(0, count, size), desc=f"Candidates ({kind})", disable=not systems)):
            part = slice(start, min(start + size, count))
            small = None
            for system in systems:
                array = kept[system.name].get(number)
                if array is None:
                    # One gallery object for all systems: a shared dual encoder keeps the vectors of the last one.
                    small = small or _readable(gallery, kind, part, self.unreadable)
                    array = _embed(system, kind, small)
                    kept[system.name].put(number, array)
                elif kind == "image":
                    lost = (np.isnan(array).any(axis=1) | (array.shape[1] == 0)).nonzero()[0]
                    self.unreadable.update(dict.fromkeys(gallery.image_ids[start + row] for row in lost))
                parts[system.name].append(array)
        return {name: _joined(arrays, kind) for name, arrays in parts.items()}

    def _key_of(self, source) -> str:
        return self._image_key(source) if isinstance(source, str) else image_key(source)

    def _queries(self, system: System, groups: Sequence[Sequence[Messages]]) -> tuple[Any, np.ndarray | None]:
        """Encodes all contexts; also returns the likelihood of [RET] if the system predicts it."""
        folder = work_folder(system, self.work) if system.has_vectors else None
        read = partial(read_conversation, load=lambda source, allow_urls: self._key_of(source))
        items = [repr([read(list(context)) for context in group]) for group in (groups if folder else ())]
        kept = Chunks(folder and folder / "queries", items)
        parts = []
        for number, start in enumerate(tqdm(range(0, len(groups), _DIALOGUES), desc=f"Dialogues ({system.name})")):
            array = kept.get(number)
            if array is None:
                array, likely = system.encode_contexts(groups[start : start + _DIALOGUES])
                if system.has_vectors:
                    array = np.asarray(array, dtype=np.float32)
                    # Kept as a last column.
                    array = array if likely is None else np.concatenate([array, likely[:, None]], axis=1)
                    kept.put(number, array)
            parts.append(array)
        if not system.has_vectors:
            return [query for part in parts for query in part], None
        queries = np.concatenate(parts)
        if not system.predicts_ret:
            return queries, None
        queries, ret = queries[:, :-1], queries[:, -1]
        return queries, None if np.isnan(ret).any() else ret


def image_key(source) -> str:
    """Returns a hash of an image's content, or its name if it cannot be read."""
    try:
        is_encoded = isinstance(source, (str, os.PathLike, bytes))
        return content_key(image_bytes(source) if is_encoded else load_image(source))
    except (ValueError, OSError):
        return source_name(source)


def _joined(arrays: list[np.ndarray], kind: str) -> np.ndarray:
    """Joins all batches. A batch without a readable candidate does not know the width of its rows."""
    width = max(array.shape[1] for array in arrays)
    if not width:
        raise ValueError(f"None of {sum(map(len, arrays))} candidates ({kind}) can be read: check their folder.")
    return np.concatenate([a if a.shape[1] else np.full((len(a), width), np.nan, a.dtype) for a in arrays])


def _readable(gallery: Gallery, kind: str, part: slice, broken: dict) -> tuple[Gallery, list[int], int]:
    """Returns the readable candidates of a part, their places in it, and the size of the part."""
    if kind == "text":
        texts = gallery.texts[part]
        return Gallery(texts), list(range(len(texts))), len(texts)
    places, loaded = [], []
    for place, number in enumerate(range(part.start, part.stop)):
        try:
            loaded.append(load_image(gallery.images[number]))
            places.append(place)
        except (ValueError, OSError):
            broken[gallery.image_ids[number]] = None
    ids, words = (
        tuple(column[part.start + place] for place in places) for column in (gallery.image_ids, gallery.image_words)
    )
    return Gallery((), ids, tuple(loaded), words), places, part.stop - part.start


def _embed(system: System, kind: str, small: tuple[Gallery, list[int], int]) -> np.ndarray:
    gallery, places, count = small
    if not places:
        return np.empty((count, 0), dtype=np.float32)
    vectors = np.asarray(system.encode_candidates(gallery, kind), dtype=np.float32)
    array = np.full((count, vectors.shape[1]), np.nan, dtype=np.float32)
    array[places] = vectors
    return array
