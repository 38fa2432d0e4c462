"""JSON files larger than memory, one entry at a time: an object of objects, an array of objects, or JSON lines."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from .json_lines import MAX_DEPTH, check_depth, read_json_lines
from .text_lines import open_lines

# Characters that are read at a time.
_CHUNK = 1 << 20
# WebQA's entries have some ten thousand characters; what is longer than this is a damaged file.
_LONGEST_ENTRY = 1 << 26
_SPACES = re.compile(r"[ \t\n\r]*")


def object_entries(path: Path) -> Iterator[tuple[str, Any]]:
    """Keys and values of a file that holds one JSON object, in its order; one entry is in memory at a time.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no JSON object, or ends before its end; the message names the entry.
    """
    with _text(path) as file:
        yield from _Reader(file, path, _CHUNK).entries("{", "}")


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
        reader = _Reader(file, path, chunk_size)
        is_array = reader.peek() == "["
        if is_array:
            for number, record in reader.entries("[", "]"):
                yield _object(record, f"{path}, object {number}")
    for number, record in () if is_array else read_json_lines(path):
        yield _object(record, f"{path}, line {number}")


def _text(path: Path) -> IO[str]:
    return io.TextIOWrapper(open_lines(path), encoding="utf-8-sig", errors="surrogatepass", newline="\n")


def _object(record: Any, where: str) -> dict:
    if not isinstance(record, dict):
        raise ValueError(f"{where}: {str(record)[:60]!r} is no JSON object.")
    return record


class _Reader:
    """Entries of one object or array of a file, read a piece at a time."""

    def __init__(self, file: IO[str], path: Path, chunk_size: int):
        self.file, self.path, self.chunk_size = file, path, chunk_size
        self.text, self.position, self.last = "", 0, "its beginning"
        self.decoder = json.JSONDecoder(strict=False)

    def entries(self, opening: str, closing: str) -> Iterator[tuple[Any, Any]]:
        """Keys and values of an object, or numbers and values of an array."""
        self._take(opening)
        number = 0
        while self.peek() != closing:
            if number:
                self._take(",")
            key = number
            if opening == "{":
                key = self._value()
                if not isinstance(key, str):
                    raise self._wrong(f"a key is expected, not {key!r}")
                self.last = key
                self._take(":")
            yield key, self._value()
            self.last = key if opening == "{" else f"object {number}"
            number += 1

    def peek(self) -> str:
        """The next character that is no space; empty at the end of the file."""
        while True:
            self.position = _SPACES.match(self.text, self.position).end()
            if self.position < len(self.text) or not self._more():
                return self.text[self.position : self.position + 1]

    def _take(self, character: str) -> None:
        if self.peek() != character:
            near = self.text[self.position : self.position + 40]
            raise self._wrong(f"{character!r} is expected where {near!r} stands")
        self.position += 1

    def _value(self) -> Any:
        self.peek()
        while True:
            try:
                found, end = self.decoder.raw_decode(self.text, self.position)
            except json.JSONDecodeError as error:
                if len(self.text) - self.position > _LONGEST_ENTRY or not self._more():
                    raise self._wrong(f"not whole JSON ({error.msg}). Fetch it anew") from error
                continue
            except RecursionError as error:
                raise self._wrong(f"nested deeper than {MAX_DEPTH} levels") from error
            if end == len(self.text) and self._more():
                continue  # a number may go on behind the piece
            self.position = min(end, len(self.text))
            try:
                check_depth(found)
            except ValueError as error:
                raise self._wrong(str(error)) from error
            return found

    def _more(self) -> bool:
        # An entry longer than a piece is tried again with twice as much, not piece by piece.
        rest = self.text[self.position :]
        try:
            read = self.file.read(max(self.chunk_size, len(rest)))
        except UnicodeDecodeError as error:
            raise self._wrong("not UTF-8. Save the file as UTF-8") from error
        self.text, self.position = rest + read, 0
        return bool(read)

    def _wrong(self, problem: str) -> ValueError:
        return ValueError(f"{self.path}, behind {self.last!r}: {problem}.")


__all__ = ["object_entries", "read_json_records"]
