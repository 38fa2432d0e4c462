"""What indexes share that are not kept in memory alone: places, payloads as JSON, and how far a search looks."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..memory_index import Hit, Query, checked_id, plain_payload, require_dict

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


__all__ = [
    "EF_SEARCH", "NPROBE", "PAYLOAD_BYTES", "is_database", "payload_text", "read_items", "search_parts", "write_items",
]  # fmt: skip
