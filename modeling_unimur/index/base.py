"""What the kinds of index share: places, payloads as JSON, search effort, and the precision of the vectors."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..memory_index import MEMORY, Hit, Query, checked_id, plain_payload, require_dict

# What Milvus takes in a JSON field, in bytes; the same everywhere, so that an index can move.
PAYLOAD_BYTES = 65_535
# How far an approximate index looks, where nobody says otherwise: the same in a folder and in Milvus.
# By benchmarks/index.py on a million vectors: recall 0.98 in HNSW32, 0.99 in IVF4096,SQ8.
EF_SEARCH = 48
NPROBE = 16
_ADDRESS = re.compile(r"(https?|tcp|grpc)://.+|[\w.-]+:\d{1,5}")


def is_database(uri: str | os.PathLike) -> bool:
    """Whether a place is a Milvus file (`*.db`) or server, and not a folder."""
    place = os.fspath(uri)
    return place.endswith(".db") or _ADDRESS.fullmatch(place) is not None


def payload_text(item: str, payload: dict | None) -> str:
    """A payload as JSON.

    Raises:
        ValueError: for what `plain_payload` refuses, or too much of it, naming the item.
    """
    text = json.dumps(plain_payload(item, payload), ensure_ascii=False)
    if len(text.encode()) > PAYLOAD_BYTES:
        raise ValueError(f"The payload of {item!r:.60} is larger than {PAYLOAD_BYTES} bytes: store where it lies.")
    return text


def search_parts(parts: Mapping[str, Any], query: Query) -> list[list[Hit]]:
    """The hits of each query over the parts of an index by kind, whose `search(vectors, top_k, where)` returns scores
    and rows, best first, and whose payloads are JSON."""
    filled = [(kind, parts[kind]) for kind in query.kinds if len(parts[kind])]
    found = [part.search(query.vectors, query.top_k, query.where) for _, part in filled]
    hits: list[list[Hit]] = [[] for _ in query.vectors]
    for (kind, part), (scores, rows) in zip(filled, found, strict=True):
        ids, payloads = part.ids, part.payloads
        stored = iter(part.vectors(rows[rows >= 0])) if query.with_vectors else itertools.repeat(None)
        for place, (values, numbers) in enumerate(zip(scores.tolist(), rows.tolist(), strict=True)):
            hits[place] += [
                Hit(ids[row], value, kind, json.loads(payloads[row]), vector=next(stored))
                for value, row in zip(values, numbers, strict=True)
                if row >= 0
            ]
    if len(filled) > 1:
        hits = [sorted(row, key=lambda hit: -hit.score)[: query.top_k] for row in hits]
    return hits


def write_items(path: Path, ids: Sequence[str | None], payloads: Sequence[str | None]) -> None:
    """Writes ids and payloads, which are JSON already, one line a row; None stands for a removed row."""
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        for item, payload in zip(ids, payloads, strict=True):
            file.write("null\n" if item is None else f"[{json.dumps(item, ensure_ascii=False)}, {payload}]\n")


def read_items(path: Path) -> tuple[list[str | None], list[str | None], dict[str, int]]:
    """Ids and payloads that `write_items` wrote, and the row of each id.

    Raises:
        ValueError: an id is there twice, or what no `add` can have stored.
    """
    ids: list[str | None] = []
    payloads: list[str | None] = []
    rows: dict[str, int] = {}
    with open(path, encoding="utf-8", newline="\n") as file:
        for row, line in enumerate(file):
            record = json.loads(line)
            item = None if record is None else checked_id(record[0])
            if item in rows:
                raise ValueError(f"{path.stem} {item!r:.60} is there twice")
            ids.append(item)
            payloads.append(item and json.dumps(require_dict(item, record[1]), ensure_ascii=False))
            if item is not None:
                rows[item] = row
    return ids, payloads, rows


# -- precision --------------------------------------------------------------------------------------------------------
# The names of sentence-transformers' `quantize_embeddings`.
PRECISIONS = FLOAT32, INT8, BINARY = ("float32", "int8", "binary")
_INT8_KINDS = (
    (re.compile(r"Flat"), "SQ8"),
    (re.compile(r"(HNSW\d+)(?:,Flat|_SQ8)?"), r"\1_SQ8"),
    (re.compile(r"(IVF\d+)(?:,Flat|,SQ8)?"), r"\1,SQ8"),
    (re.compile(r"SQ8"), "SQ8"),
)


def with_precision(index: str | None, precision: str | None) -> str:
    """The whole description of a new index's kind, such as `"SQ8"` for `"Flat"` in int8. Without an `index` it is
    `"memory"` for binary and `"Flat"` otherwise.

    Raises:
        ValueError: an unknown precision, or one that this kind has not.
    """
    kind = index or (MEMORY if precision == BINARY else "Flat")
    if precision not in (None, *PRECISIONS):
        raise ValueError(f"precision must be one of {PRECISIONS}, got {precision!r:.60}.")
    if precision is None or precision == precision_of(kind):
        return kind
    if kind == MEMORY:
        return f"{MEMORY},{precision}"
    for form, found in _INT8_KINDS if precision == INT8 else ():
        if match := form.fullmatch(kind):
            return match.expand(found)
    raise ValueError(
        f"An index of kind {kind!r} has no precision={precision!r}: kind {MEMORY!r} has every one, and 'Flat', "
        f"'HNSW32' and 'IVF1024,Flat' (any numbers) have {INT8!r}."
    )


def precision_of(kind: object) -> str | None:
    """The precision that a kind of index holds vectors in; None for other codes."""
    kind = str(kind)
    base, _, precision = kind.partition(",")
    if base == MEMORY:
        return precision or FLOAT32
    if "SQ8" in kind:
        return INT8
    return None if re.search(r"PQ|SQ|RaBitQ|LSH", kind) else FLOAT32


def is_quantized(kind: object) -> bool:
    """Whether a kind is that of an index in memory of small vectors."""
    return isinstance(kind, str) and kind.startswith(f"{MEMORY},")


def require_kind(place: object, held: str, index: str | None, precision: str | None) -> None:
    """Raises ValueError where the index in a place is of another kind or precision than asked for."""
    if index is not None and not _agrees(held, index):
        raise ValueError(f"The index in {place} is {held!r}, not {index!r}; build another for that.")
    if precision not in (None, precision_of(held)):
        raise ValueError(
            f"The index in {place} holds vectors in {precision_of(held)}, not in {precision}; build another for that."
        )


def _agrees(held: str, index: str) -> bool:
    try:
        return with_precision(index, precision_of(held)) == held
    except ValueError:
        return False


__all__ = [
    "BINARY", "EF_SEARCH", "FLOAT32", "INT8", "NPROBE", "PAYLOAD_BYTES", "PRECISIONS", "is_database", "is_quantized",
    "payload_text", "precision_of", "read_items", "require_kind", "search_parts", "with_precision", "write_items",
]  # fmt: skip
