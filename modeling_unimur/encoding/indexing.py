"""Vectors from the work folder into an index."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from tqdm.auto import tqdm

from ..data.row_store import KEY_TYPE, RowStore
from ..index import is_database, open_index
from ..index.base import local_path
from ..index.versions import IndexFolder
from ..memory_index import KINDS, VectorIndex
from ..modeling_open_clip import unit_vectors
from .context import Contexts
from .manifest import Manifest

_BLOCK = 2048
# Vectors that an inverted file is fitted to; FAISS takes no more than 256 a cell.
_SAMPLE = 131_072


class Held(NamedTuple):
    """Candidates of each kind that an index holds, the name of their model, the width of their vectors, what kind of
    index it is, and whether it keeps words too."""

    counts: dict[str, int]
    model: str | None
    width: int | None
    factory: str | None
    words: bool = False


def find_held(uri: str, **options: object) -> Held | None:
    """Return what an index holds, or None if there is no index."""
    if not is_database(uri):
        about = IndexFolder(uri).about()
        return None if about is None else Held(*(about[name] for name in Held._fields[:4]), "words" in about)
    try:
        with open_index(uri, read_only=True, **options) as index:
            return Held({kind: index.count(kind) for kind in KINDS}, index.model, index.width, index.factory)
    except FileNotFoundError:
        return None


def bring_up_to_date(
    manifest: Manifest, store: RowStore, index: VectorIndex, contexts: Contexts, show_progress: bool = False
) -> Counter[str]:
    """Apply all pending changes of the manifest to the index, save it, and record that in the manifest. Returns how
    many candidates were `added`, `replaced` and `removed`.

    Images get their contexts. An index that is narrower than the vectors takes the first numbers of each.

    Whatever it is interrupted by, doing it again gives the same index.
    """
    changes: Counter[str] = Counter()
    for kind in KINDS:
        needs = getattr(index, "needs_training", None)
        keys = manifest.waiting_keys(kind, _SAMPLE) if needs is not None and needs(kind) else []
        if keys:
            index.train(kind, _at_width(stored_vectors(store, keys), index.width))
    bar = tqdm(desc="Filling the index", unit=" items", disable=not show_progress)
    refused: list[tuple[str, str, str]] = []
    for rows in manifest.waiting(_BLOCK):
        for kind in KINDS:
            mine = [row for row in rows if row[0] == kind]
            present = [(item, key, payload) for _, item, key, payload in mine if key is not None]
            if present:
                ids, keys, payloads = zip(*present, strict=True)
                payloads, vectors = [json.loads(payload) for payload in payloads], stored_vectors(store, keys)
                if kind == "image":
                    vectors = contexts.add_to(vectors, payloads)
                added = index.add(kind, list(ids), _at_width(vectors, index.width), payloads, on_error="skip")
                changes["added"] += added.added
                changes["replaced"] += added.replaced
                refused += [(kind, item, f"the index does not take it: {reason}") for item, reason in added.skipped]
            left_out = {item for one, item, _ in refused if one == kind}
            gone = [item for _, item, key, _ in mine if (key is None or item in left_out) and (kind, item) in index]
            changes["removed"] += index.remove(kind, gone)
        bar.update(len(rows))
    bar.close()
    index.save()
    for kind in KINDS:
        manifest.refuse(kind, [(item, reason) for one, item, reason in refused if one == kind])
    contexts.remember()
    manifest.all_indexed()
    return changes


def stored_vectors(store: RowStore, keys: Sequence[bytes]) -> torch.Tensor:
    """Vectors `(keys, width)` of the contents with these keys.

    Raises:
        ValueError: one of them is gone.
    """
    numbers = store.find(np.array(keys, dtype=KEY_TYPE))
    if (numbers < 0).any():
        gone = int((numbers < 0).sum())
        raise ValueError(f"{gone} vectors are gone from {store.folder}: update the index from each of its sources.")
    return store.rows(numbers).tensor()


def _at_width(vectors: torch.Tensor, width: int) -> torch.Tensor:
    return vectors if vectors.shape[1] == width else unit_vectors(vectors, width)


def work_folder(uri: str, collection: str | None = None) -> str:
    """Return the default folder of an index' vectors and manifest: beside it, or in the cache for a server."""
    if (place := local_path(uri)) is None:
        from ..data.cache import cache_dir

        name = "".join(sign if sign.isalnum() else "-" for sign in f"{uri}-{collection or 'unimur'}")
        return os.fspath(cache_dir() / "encoding" / name)
    return f"{os.path.abspath(place)}.encoding"
