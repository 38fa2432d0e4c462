"""What indexes share that are not kept in memory alone: places, payloads as JSON, and how far a search looks."""

from __future__ import annotations

import json
import os
import re

from ..memory_index import plain_payload

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


__all__ = ["EF_SEARCH", "NPROBE", "PAYLOAD_BYTES", "is_database", "payload_text"]
