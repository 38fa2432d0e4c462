"""Precomputed vectors of any encoder, and the texts that belong to them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from ..data.json_lines import read_json_lines
from ..data.text_lines import read_lines
from ..memory_index import KINDS, RetrievalIndex

FAISS_ENDINGS = (".faiss", ".index", ".ivf")
_VECTOR_FORMATS = "an array (.npy), a table with a column of vectors (.parquet) or a FAISS index (.faiss, .index)"
# Vectors whose length differs from 1 by more than this are not normalised; half precision stays below it.
_UNIT = 5e-3


@dataclass
class ReadyVectors:
    """Vectors as they were stored.

    Args:
        values (`(items, width)`): float32.
        ids: one per row, where the file holds them.
        metric: how the file's own index ranks, `inner_product` or `l2`; None where the file does not say.
        note: what a person should know about them; empty for nothing.
    """

    values: np.ndarray
    ids: list[str] | None = None
    metric: str | None = None
    note: str = ""

    @property
    def lengths(self) -> np.ndarray:
        """Euclidean lengths `(items,)`."""
        return np.linalg.norm(self.values, axis=1)

    @property
    def normalised(self) -> bool:
        """Whether all vectors have length 1, except those of zeros."""
        lengths = self.lengths
        return bool((np.abs(lengths[lengths > 0] - 1) < _UNIT).all())


def load_vectors(source: str | os.PathLike | np.ndarray, column: str | None = None) -> ReadyVectors:
    """Read and check vectors.

    Args:
        source: a `.npy`, `.parquet` or FAISS file, or an array `(items, width)`.
        column: column of a table, the one with the vectors; not needed where there is only one of lists of numbers.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another format, no vectors, vectors of unequal width, or one that holds no number; the message
            names the row and the remedy.
        ImportError: without the library that reads the file.
    """
    if isinstance(source, np.ndarray):
        found, name = ReadyVectors(source), "the array"
    else:
        path, name = Path(source).expanduser(), str(source)
        if not path.is_file():
            raise FileNotFoundError(f"There are no embeddings {name}: give {_VECTOR_FORMATS}.")
        ending = path.suffix.lower()
        if ending == ".npy":
            found = ReadyVectors(np.load(path, mmap_mode="r", allow_pickle=False))
        elif ending == ".parquet":
            found = _read_parquet(path, column)
        elif ending in FAISS_ENDINGS:
            found = _read_faiss(path)
        else:
            raise ValueError(f"{name}: the format {ending or 'without ending'} is unknown: give {_VECTOR_FORMATS}.")
    found.values = _checked(found.values, name)
    return found


def _checked(values: np.ndarray, name: str) -> np.ndarray:
    if values.ndim != 2 or values.dtype.kind not in "fiu":
        raise ValueError(
            f"{name} holds {values.dtype} of shape {values.shape}, not numbers of shape (items, width): one row a "
            "vector."
        )
    if not values.size:
        raise ValueError(f"{name} contains no vector (shape {values.shape}): embed the items first.")
    values = np.ascontiguousarray(values, dtype=np.float32)
    broken = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(broken):
        raise ValueError(
            f"{name}: {len(broken)} vectors hold NaN or infinity, the first in row {broken[0]}: embed these items "
            "again, or take them out of vectors and texts."
        )
    if not values.any():
        raise ValueError(f"{name} holds zeros alone: embed the items again.")
    return values


def _read_parquet(path: Path, column: str | None) -> ReadyVectors:
    table = pq.read_table(path)

    def holds_vectors(kind) -> bool:
        lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
        numbers = (pa.types.is_floating, pa.types.is_integer)
        return any(test(kind) for test in lists) and any(test(kind.value_type) for test in numbers)

    columns = [field.name for field in table.schema if holds_vectors(field.type)]
    if column is None and len(columns) == 1:
        column = columns[0]
    if column not in columns:
        raise ValueError(
            f"{path}: {'no column' if column is None else f'the column {column!r} is none'} of vectors, or several: "
            f"name one of {columns or 'none that holds lists of numbers'} (its columns are {table.column_names})."
        )
    vectors = table.column(column).combine_chunks()
    widths = pc.list_value_length(vectors).fill_null(0).to_numpy(zero_copy_only=False)
    wrong = np.flatnonzero((widths == 0) | (widths != widths[:1]))
    if len(wrong):
        raise ValueError(
            f"{path}, column {column}: row {wrong[0]} has a vector of {widths[wrong[0]]} numbers, unlike others: "
            "embed all items with one encoder."
        )
    values = vectors.flatten().to_numpy(zero_copy_only=False).reshape(len(widths), *widths[:1])
    if "id" not in table.column_names:
        return ReadyVectors(values)
    ids = table.column("id").to_pylist()
    if None in ids:
        raise ValueError(f"{path}: row {ids.index(None)} has no id: give each row an id, or leave the column id out.")
    return ReadyVectors(values, list(map(str, ids)))


def _read_faiss(path: Path) -> ReadyVectors:
    try:
        import faiss
    except ImportError as error:
        raise ImportError(f"{path.name} is a FAISS index: `pip install unimur[faiss]`.") from error
    try:
        whole = faiss.read_index(str(path))  # held to the end: what is taken out of it does not own its memory
    except RuntimeError as error:
        raise ValueError(f"{path} is not a FAISS index of vectors: {str(error).strip().splitlines()[-1]}") from error
    index = faiss.downcast_index(whole)
    if not index.ntotal:
        raise ValueError(f"{path} contains no vector: add the items first.")
    metric = {faiss.METRIC_INNER_PRODUCT: "inner_product", faiss.METRIC_L2: "l2"}.get(index.metric_type)
    ids = None
    if isinstance(index, (faiss.IndexIDMap, faiss.IndexIDMap2)):
        ids = list(map(str, faiss.vector_to_array(index.id_map).tolist()))
        index = faiss.downcast_index(index.index)
    try:
        if isinstance(index, faiss.IndexIVF):
            index.make_direct_map()
        values = index.reconstruct_n(0, index.ntotal)
    except RuntimeError as error:
        raise ValueError(
            f"{path} ({type(index).__name__}) cannot give its vectors back: pass the array (.npy) it was built from."
        ) from error
    flat = "Flat" in type(index).__name__
    note = "" if flat else f"{type(index).__name__} does not keep vectors as they were: it gives back near ones."
    return ReadyVectors(values, ids, metric, note)


_FORMATS = (
    "JSON lines (.jsonl), a text a line (.txt) or a table (.parquet), with text and, if you like, id, kind, image"
)


@dataclass
class ReadyItems:
    """Items in the order of their vectors.

    Args:
        ids: unique within a kind.
        texts: their own text, or the caption of an image; empty where there is none: such an item can be found, and
            teaches nothing.
        kinds: `text` or `image` each.
        payloads: what a hit brings back: the text, or what names the image.
        own_ids: whether the file names the ids; else they are numbers.
    """

    ids: list[str]
    texts: list[str]
    kinds: list[str]
    payloads: list
    own_ids: bool = True

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, rows: Sequence[int]) -> ReadyItems:
        """Return some items in the given order."""
        columns = (self.ids, self.texts, self.kinds, self.payloads)
        return ReadyItems(*([column[row] for row in rows] for column in columns), own_ids=self.own_ids)


def load_items(source: str | os.PathLike | Sequence, kind: str = "text") -> ReadyItems:
    """Read the texts of precomputed vectors.

    Args:
        source: JSON lines, a text file with a text a line, or a table; or a list of texts or of records. A record has
            `text`, and may have `id`, `kind` and, for an image, `image`, its path or address.
        kind: kind of items that do not say theirs.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another format, an item that is none, ids for some of the items only, or an id that stands twice;
            the message names the item.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {KINDS}, got {kind!r}.")
    if isinstance(source, (str, os.PathLike)):
        records, name = _records(Path(source).expanduser()), str(source)
    else:
        records, name = list(source), "the texts"
    if not records:
        raise ValueError(f"{name} contains no item: give {_FORMATS}, one item a vector.")
    items = ReadyItems([], [], [], [], own_ids=_have_ids(records, name))
    for number, record in enumerate(records):
        record = {"text": record} if isinstance(record, str) or record is None else record
        if not isinstance(record, dict) or not isinstance(record.get("text") or "", str):
            raise ValueError(f"{name}, item {number}: an item is a text, or a record with text, not {record!r:.80}.")
        own_kind = record.get("kind") or kind
        if own_kind not in KINDS:
            raise ValueError(f"{name}, item {number}: kind must be one of {KINDS}, got {own_kind!r}.")
        text = " ".join((record.get("text") or "").split())
        item_id = str(record["id"]) if items.own_ids else str(number)
        items.ids.append(item_id)
        items.texts.append(text)
        items.kinds.append(own_kind)
        items.payloads.append((record.get("text") or "") if own_kind == "text" else record.get("image") or item_id)
    seen: dict[tuple[str, str], int] = {}
    for number, key in enumerate(zip(items.kinds, items.ids, strict=True)):
        first = seen.setdefault(key, number)
        if first != number:
            raise ValueError(
                f"{name}: two {key[0]} items, {first} and {number}, have the id {key[1]!r} (a number and its digits "
                f"as text are one id): give each its own id, such as {key[1]}#2."
            )
    return items


def _have_ids(records: list, name: str) -> bool:
    """Whether the records name their ids: all of them or none, because a record without an id cannot be joined by
    id."""
    named = [isinstance(record, dict) and record.get("id") is not None for record in records]
    if any(named) and not all(named):
        raise ValueError(
            f"{name}, item {named.index(False)}: it has no id, unlike {sum(named)} of the {len(named)} items: give "
            "each item an id, or none of them."
        )
    for number, record in enumerate(records if any(named) else ()):
        if isinstance(record["id"], bool) or not isinstance(record["id"], (str, int)):
            raise ValueError(f"{name}, item {number}: an id must be a string or an integer, got {record['id']!r:.80}.")
    return all(named)


def _records(path: Path) -> list:
    ending = path.suffix.lower()
    if not path.is_file():
        raise FileNotFoundError(f"There are no texts {path}: give {_FORMATS}.")
    if ending == ".txt":
        return list(read_lines(path))
    if ending in (".jsonl", ".ndjson"):
        return [record for _, record in read_json_lines(path)]
    if ending == ".parquet":
        table = pq.read_table(path)
        wanted = [name for name in ("id", "text", "kind", "image") if name in table.column_names]
        if "text" not in wanted:
            raise ValueError(f"{path} has no column `text`, only {table.column_names}: rename the one with the texts.")
        return table.select(wanted).to_pylist()
    raise ValueError(f"{path}: the format {ending or 'without ending'} is unknown: give {_FORMATS}.")


@dataclass
class PrecomputedCorpus:
    """Precomputed vectors and their items.

    Args:
        vectors (`(items, width)`): unit vectors, float32.
        items: one per vector.
        raw: the vectors as they were stored, where those are not normalised.
        metric: metric of the file's own index, `inner_product` or `l2`, where it says so.
        notes: what a person should know.
    """

    vectors: torch.Tensor
    items: ReadyItems
    raw: torch.Tensor | None = None
    metric: str | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def width(self) -> int:
        """Width of the vectors."""
        return self.vectors.shape[1]

    def rows(self, kind: str) -> np.ndarray:
        """Return the numbers of the items of a kind."""
        return np.flatnonzero(np.array(self.items.kinds) == kind)

    def to_retrieval_index(self) -> RetrievalIndex:
        """Convert the items to an index that the pipeline searches."""
        index = RetrievalIndex()
        for kind in KINDS:
            rows = self.rows(kind)
            if len(rows):
                some = self.items.select(rows.tolist())
                payloads = [{kind: payload} for payload in some.payloads]
                index.add(kind, some.ids, self.vectors[torch.from_numpy(rows)], payloads)
        return index


def join(vectors: ReadyVectors, items: ReadyItems) -> PrecomputedCorpus:
    """Join texts and vectors, by id if both files have ids, otherwise by order.

    Vectors of zeros have no direction: they are left out, and a note says how many.

    Raises:
        ValueError: for texts and vectors that do not agree in number, or in ids.
    """
    count = len(vectors.values)
    if len(items) != count:
        few = len(items) < count
        raise ValueError(
            f"{len(items)} texts for {count} vectors: {'fewer' if few else 'more'} texts than vectors. Give one a "
            "vector, in their order; where a vector has no text, an empty one."
        )
    if vectors.ids is not None and items.own_ids:
        places = {item_id: row for row, item_id in enumerate(items.ids)}
        # Of an id that stands twice only one order for both says which text is meant.
        unclear = [i for i, times in Counter(vectors.ids).items() if times > 1 or i not in places]
        if not unclear:
            items = items.select([places[item_id] for item_id in vectors.ids])
        elif vectors.ids not in (items.ids, [str(n) for n in range(count)]):
            raise ValueError(
                f"{len(unclear)} ids of the vectors, such as {unclear[0]!r}, are not among those of the texts, or "
                "stand twice: give each vector and its text one id, or leave the ids out where both have one order."
            )
    elif vectors.ids is not None and len(set(vectors.ids)) == count:
        items = ReadyItems(vectors.ids, items.texts, items.kinds, items.payloads)
    notes = [vectors.note] if vectors.note else []
    lengths, normalised = vectors.lengths, vectors.normalised
    kept = np.flatnonzero(lengths > 0)
    if len(kept) < count:
        notes.append(f"{count - len(kept)} vectors are zeros, and have no direction: left out.")
        items = items.select(kept.tolist())
    raw = torch.from_numpy(vectors.values[kept])
    if not normalised:
        low, middle, high = np.percentile(lengths[kept], [0, 50, 100])
        notes.append(
            f"The vectors are not normalised (lengths {low:.3g} to {high:.3g}, median {middle:.3g}): heads and index "
            "go by the cosine. An index of yours that ranks by inner product, or by distance, favours some lengths: "
            "what that costs is measured below; normalise its vectors to have the cosine there too."
        )
    unit = torch.nn.functional.normalize(raw, dim=-1)
    return PrecomputedCorpus(unit, items, None if normalised else raw, vectors.metric, notes)
