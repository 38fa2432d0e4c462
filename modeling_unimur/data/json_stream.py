"""JSON files larger than memory, one entry at a time: an object of objects, an array of objects, or JSON lines."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from .json_lines import MAX_DEPTH, check_depth, read_json_lines
from .text_lines import open_lines

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
    with _text(path) as file:
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
    with _text(path) as file:
        reader, number = _Reader(file, path, chunk_size), 0
        if not reader.at_end() and reader.peek() == "[":
            reader.take("[")
            while reader.peek() != "]":
                if number:
                    reader.take(",")
                yield _object(reader.value(), f"{path}, object {number}")
                reader.last = f"object {number}"
                number += 1
            return
    for number, record in read_json_lines(path):
        yield _object(record, f"{path}, line {number}")


def _text(path: Path) -> IO[str]:
    return io.TextIOWrapper(open_lines(path), encoding="utf-8-sig", errors="surrogatepass", newline="\n")


def _object(record: Any, where: str) -> dict:
    if not isinstance(record, dict):
        raise ValueError(f"{where}: {str(record)[:60]!r} is no JSON object.")
    return record


class _Reader:
    """Tokens of a file, read a piece at a time."""

    def __init__(self, file: IO[str], path: Path, chunk_size: int = _CHUNK):
        self.file, self.path, self.chunk_size, self.last = file, path, chunk_size, ""
        self.buffer, self.position = "", 0
        self.decoder = json.JSONDecoder(strict=False)

    def _more(self) -> bool:
        rest = self.buffer[self.position :]
        # An entry longer than a piece is tried again with twice as much, not piece by piece.
        try:
            read = self.file.read(max(self.chunk_size, len(rest)))
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.path}, behind {self.last!r}: not UTF-8. Save the file as UTF-8.") from error
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
            except RecursionError as error:
                told = f"{self.path}, behind {self.last!r}: nested deeper than {MAX_DEPTH} levels."
                raise ValueError(told) from error
            if end < len(self.buffer):
                self.position = end
                return self._checked(found)
            # A number may go on behind the piece.
            if not self._more():
                self.position = len(self.buffer)
                return self._checked(found)

    def _checked(self, value: Any) -> Any:
        try:
            check_depth(value)
        except ValueError as error:
            raise ValueError(f"{self.path}, behind {self.last!r}: {error}.") from error
        return value


__all__ = ["object_entries", "read_json_records"]
