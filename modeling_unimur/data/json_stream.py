"""JSON files larger than memory, one entry at a time: an object of objects, an array, or an object a line."""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

logger = logging.getLogger(__name__)

_CHUNK = 1 << 20
# WebQA's entries have some ten thousand characters; what is longer than this is a damaged file.
_LONGEST_ENTRY = 1 << 26
_SPACE = " \t\n\r"


def object_entries(path: Path) -> Iterator[tuple[str, Any]]:
    """Keys and values of a file that holds one JSON object, in its order; one entry is in memory at a time.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no JSON object, or ends before its end; the message names the entry.
    """
    with path.open(encoding="utf-8") as file:
        reader = _Reader(file, path)
        reader.take("{")
        if reader.peek() == "}":
            return
        while True:
            key = reader.value()
            if not isinstance(key, str):
                raise ValueError(f"{path}, behind {reader.last!r}: a key is expected, not {key!r}")
            reader.last = key
            reader.take(":")
            yield key, reader.value()
            if reader.peek() == "}":
                return
            reader.take(",")


def read_json_records(path: str | os.PathLike, chunk_size: int = _CHUNK) -> Iterator[dict]:
    """Objects of a JSON array, or of JSON lines.

    Args:
        path: of the file, UTF-8.
        chunk_size: characters that are read at a time; a longer object takes several.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no JSON, or something that is no object: the message names the file and the place.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    with path.open(encoding="utf-8-sig") as file:
        reader, number = _Reader(file, path, chunk_size), 0
        in_array = not reader.at_end() and reader.peek() == "["
        if in_array:
            reader.take("[")
        while not (reader.peek() == "]" if in_array else reader.at_end()):
            if in_array and number:
                reader.take(",")
            record = reader.value()
            if not isinstance(record, dict):
                raise ValueError(f"{path}, object {number}: {str(record)[:60]!r} is no JSON object.")
            yield record
            reader.last = f"object {number}"
            number += 1


class _Reader:
    """Tokens of a file, read a piece at a time."""

    def __init__(self, file: IO[str], path: Path, chunk_size: int = _CHUNK):
        self.file, self.path, self.chunk_size, self.last = file, path, chunk_size, ""
        self.buffer, self.position = "", 0
        self.decoder = json.JSONDecoder()

    def _more(self) -> bool:
        rest = self.buffer[self.position :]
        # An entry longer than a piece is tried again with twice as much, not piece by piece.
        read = self.file.read(max(self.chunk_size, len(rest)))
        self.buffer, self.position = rest + read, 0
        return bool(read)

    def at_end(self) -> bool:
        """Whether only space is left."""
        while True:
            while self.position < len(self.buffer) and self.buffer[self.position] in _SPACE:
                self.position += 1
            if self.position < len(self.buffer):
                return False
            if not self._more():
                return True

    def peek(self) -> str:
        if self.at_end():
            raise ValueError(f"{self.path} ends behind {self.last!r}, not whole JSON. Fetch it anew.")
        return self.buffer[self.position]

    def take(self, character: str) -> None:
        if self.peek() != character:
            near = self.buffer[self.position : self.position + 40]
            raise ValueError(f"{self.path}, behind {self.last!r}: {character!r} is expected where {near!r} stands")
        self.position += 1

    def value(self) -> Any:
        self.peek()
        while True:
            try:
                found, end = self.decoder.raw_decode(self.buffer, self.position)
            except json.JSONDecodeError as error:
                if len(self.buffer) - self.position > _LONGEST_ENTRY or not self._more():
                    told = f"{self.path}, behind {self.last!r}: not whole JSON ({error.msg}). Fetch it anew."
                    raise ValueError(told) from error
                continue
            if end < len(self.buffer):
                self.position = end
                return found
            # A number may go on behind the piece.
            if not self._more():
                self.position = len(self.buffer)
                return found


def line_objects(file: IO[bytes], name: str) -> Iterator[dict]:
    """Objects of a file that has one a line; empty lines are passed over, lines that are none counted in the log.

    Raises:
        ValueError: there are lines, and not one holds an object.
    """
    counts: Counter[str] = Counter()
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict):
            counts["read"] += 1
            yield row
        else:
            counts["skipped"] += 1
            logger.debug("%s:%d is no JSON object", name, number)
    if counts["skipped"]:
        if not counts["read"]:
            raise ValueError(f"{name}: not one of its {counts['skipped']} lines is a JSON object")
        logger.warning("%s: %d of %d lines are no JSON objects", name, counts["skipped"], counts.total())


__all__ = ["line_objects", "object_entries", "read_json_records"]
