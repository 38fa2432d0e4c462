"""What indexes share that are not kept in memory alone: places, payloads as JSON, and how far a search looks."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

from ..memory_index import checked_id, plain_payload, require_dict

# What Milvus takes in a JSON field, in bytes; the same everywhere, so that an index can move.
PAYLOAD_BYTES = 65_535
# How far an approximate index looks, where nobody says otherwise: the same in a folder and in Milvus.
# By benchmarks/index.py on a million vectors: recall 0.98 in HNSW32, 0.99 in IVF4096,SQ8.
EF_SEARCH = 48
NPROBE = 16
_SERVER = r"[\w.-]+:\d{1,5}"
_ADDRESS = re.compile(rf"(https?|tcp|grpc)://.+|{_SERVER}")
# Databases that are named before the place, as in `qdrant+http://localhost:6333` or `lancedb+items`.
_NAMED = ("qdrant", "lancedb")
# How similar a name must be to one of theirs to be taken for a typing error, from 0 to 1.
_SIMILAR = 0.75
# Places that last as long as the process.
_MEMORY = (":memory:", "memory://")


def database_of(uri: str | os.PathLike) -> tuple[str, str] | None:
    """The database that keeps an index (`qdrant+PLACE`, `lancedb+PLACE`, a Milvus file `*.db` or server) and its place
    there; None for a folder of this package. `~` in such a place is the user's folder.

    Raises:
        ValueError: a database without a place, or an address that is most likely mistyped, such as `qdrnt+items` or
            `lancedb://items`.
    """
    uri = os.fspath(uri)
    name, plus, place = uri.partition("+")
    if plus and name in _NAMED:
        if not place:
            raise ValueError(f"{uri} names no place: write {name}+FOLDER.")
        if name == "qdrant" and re.fullmatch(_SERVER, place):
            raise ValueError(f"{uri} names no place: a server is {name}+http://{place}.")
        return name, os.path.expanduser(place)
    if _ADDRESS.fullmatch(uri):
        return "milvus", uri
    first = re.match(r"([^+:/]+)[+:]", uri)
    if "://" in uri or (first and difflib.get_close_matches(first[1].lower(), _NAMED, 1, _SIMILAR)):
        raise ValueError(
            f"{uri} is no address of an index: write FOLDER, FILE.db, http://HOST:PORT (Milvus), qdrant+PLACE or "
            "lancedb+PLACE. If it is the name of a folder, write ./ before it."
        )
    return ("milvus", uri) if uri.endswith(".db") else None


def is_database(uri: str | os.PathLike) -> bool:
    """Whether a place is one of a database, and not a folder of this package."""
    return database_of(uri) is not None


def local_path(uri: str | os.PathLike) -> str | None:
    """The file or folder that an index lies in; None for a server, for storage by an address, and for memory."""
    name, place = database_of(uri) or ("", os.fspath(uri))
    remote = not place.endswith(".db") if name == "milvus" else "://" in place or place in _MEMORY
    return None if name and remote else place


def is_in_memory(uri: str | os.PathLike) -> bool:
    """Whether an index lasts only as long as the process: `qdrant+:memory:`, `lancedb+memory://`."""
    _, place = database_of(uri) or ("", "")
    return place in _MEMORY


def require_same(
    where: object, width: int | None, model: str | None, held_width: int | None, held_model: str | None
) -> None:
    """Raises ValueError for an index of another width or model than the caller expects; one that does not say its own
    passes."""
    if None not in (width, held_width) and width != held_width:
        raise ValueError(f"The index in {where} holds vectors of {held_width} numbers, not of {width}.")
    if None not in (model, held_model) and model != held_model:
        raise ValueError(
            f"The index in {where} was made by {held_model!r}, not by {model!r}: its vectors mean something else. "
            "Open it with that model, or build another."
        )


def payload_text(item: str, payload: dict | None) -> str:
    """A payload as JSON.

    Raises:
        ValueError: for what `plain_payload` refuses, or too much of it, naming the item.
    """
    text = json.dumps(plain_payload(item, payload), ensure_ascii=False)
    if len(text.encode()) > PAYLOAD_BYTES:
        raise ValueError(f"The payload of {item!r:.60} is larger than {PAYLOAD_BYTES} bytes: store where it lies.")
    return text


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
