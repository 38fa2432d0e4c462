"""JSON, read and written in one way everywhere: lines, and files larger than memory, one entry at a time."""

from __future__ import annotations

import io
import json
import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from .atomic_files import atomic_file
from .text_lines import Line, open_lines, scan_lines

logger = logging.getLogger(__name__)

# Deeper values end the recursion of whatever reads, writes or walks them next.
MAX_DEPTH = 100
# Control characters inside a string are accepted: hand-written files hold tabs.
_DECODER = json.JSONDecoder(strict=False)
# JSON allows these in a string as they are, and other readers take them for the end of a line.
_LINE_ENDS = re.compile("[\x85\u2028\u2029]")


def parse_json(text: str | bytes) -> Any:
    """Parse a JSON text, or its bytes in UTF-8.

    Raises:
        ValueError: it is not JSON, or nested deeper than `MAX_DEPTH`.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8-sig", "surrogatepass")
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg} at character {error.pos + 1})") from error
    except RecursionError as error:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels") from error
    except ValueError as error:  # a number of more digits than Python reads
        raise ValueError(f"not JSON ({error})") from error
    if text.count("[") + text.count("{") > MAX_DEPTH:
        check_depth(value)
    return value


def check_depth(value: Any, depth: int = 0) -> None:
    """Raise a ValueError if a value is nested deeper than `MAX_DEPTH`."""
    if isinstance(value, (dict, list)):
        if depth == MAX_DEPTH:
            raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
        for inner in value.values() if isinstance(value, dict) else value:
            check_depth(inner, depth + 1)


# -- reading --------------------------------------------------------------------------------------------------------
def scan_json_lines(file: IO[bytes], name: str = "the file") -> Iterator[Line]:
    """Yield all non-empty lines of a file, which errors call `name`, one in memory at a time. The caller decides what
    happens to bad lines.

    Raises:
        ValueError: the file is in UTF-16.
    """
    for number, text, problem in scan_lines(file, name):
        if text is None:
            yield Line(number, None, problem)
        elif text and not text.isspace():
            try:
                yield Line(number, parse_json(text))
            except ValueError as error:
                yield Line(number, None, str(error))


def read_json_lines(path: str | os.PathLike) -> Iterator[tuple[int, Any]]:
    """Yield the number and the value of each non-empty line of a file.

    Raises:
        FileNotFoundError, OSError: as `open_lines` says.
        ValueError: a line cannot be read; the message names file and line.
    """
    with open_lines(path) as file:
        for number, value, problem in scan_json_lines(file, str(path)):
            if problem is not None:
                raise ValueError(f"{path}, line {number}: {problem}.")
            yield number, value


def read_rows(path: Path) -> list[Any]:
    """Return the values of a `.jsonl` file, or the rows of a parquet file. Raises what `read_json_lines` raises."""
    if path.suffix == ".jsonl":
        return [row for _, row in read_json_lines(path)]
    import pyarrow.parquet as pq

    return pq.read_table(path).to_pylist()


def line_objects(file: IO[bytes], name: str) -> Iterator[dict]:
    """Yield the objects of a file that has one per line. Other lines are skipped and counted in the log.

    Raises:
        ValueError: there are lines, and not one holds an object.
    """
    counts: Counter[str] = Counter()
    for number, value, problem in scan_json_lines(file, name):
        if isinstance(value, dict):
            counts["read"] += 1
            yield value
        else:
            counts["skipped"] += 1
            logger.debug("%s, line %d: %s", name, number, problem or "no JSON object")
    if counts["skipped"]:
        if not counts["read"]:
            raise ValueError(f"{name}: none of its {counts['skipped']} lines is a JSON object")
        logger.warning("%s: %d of %d lines are no JSON objects", name, counts["skipped"], counts.total())


# -- writing --------------------------------------------------------------------------------------------------------
def json_line(value: Any) -> bytes:
    """Encode a value as one line in UTF-8. Lone surrogates and the line ends of other readers are escaped."""
    text = json.dumps(value, ensure_ascii=False)
    text = _LINE_ENDS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    try:
        return text.encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(value).encode("ascii") + b"\n"


def write_json_lines(path: str | os.PathLike, values: Iterable[Any]) -> int:
    """Write a file atomically, create its folder, and return the number of lines."""
    count = 0
    with atomic_file(path) as aside, aside.open("wb") as file:
        for value in values:
            file.write(json_line(value))
            count += 1
    return count


def append_json_lines(path: str | os.PathLike, values: Iterable[Any]) -> None:
    """Append lines to a file, after a line that a killed run left incomplete, and sync them to disk."""
    lines = b"".join(map(json_line, values))
    with open(path, "ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            lines = lines if file.read(1) == b"\n" else b"\n" + lines
        file.write(lines)
        file.flush()
        os.fsync(file.fileno())


# Characters that are read at a time.
_CHUNK = 1 << 20
# WebQA's entries have some ten thousand characters; what is longer than this is a damaged file.
_LONGEST_ENTRY = 1 << 26
_SPACES = re.compile(r"[ \t\n\r]*")


def object_entries(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the keys and values of a file with one JSON object, in order, with one entry in memory at a time.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no JSON object, or ends before its end; the message names the entry.
    """
    with _Reader(path) as reader:
        yield from reader.entries("{", "}")


def read_json_records(path: str | os.PathLike) -> Iterator[dict]:
    """Yield the objects of a JSON array, or of JSON lines.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no JSON, or something that is no object: the message names the file and the place.
    """
    path = Path(path)
    with _Reader(path) as reader:
        is_array = reader.peek() == "["
        if is_array:
            for number, record in reader.entries("[", "]"):
                yield _object(record, f"{path}, object {number}")
    for number, record in () if is_array else read_json_lines(path):
        yield _object(record, f"{path}, line {number}")


def _object(record: Any, where: str) -> dict:
    if not isinstance(record, dict):
        raise ValueError(f"{where}: {str(record)[:60]!r} is no JSON object.")
    return record


class _Reader:
    """Entries of one object or array of a file, read a piece at a time."""

    def __init__(self, path: Path):
        self.file = io.TextIOWrapper(open_lines(path), encoding="utf-8-sig", errors="surrogatepass", newline="\n")
        self.path, self.text, self.position, self.last = path, "", 0, "its beginning"

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.file.close()

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
                found, end = _DECODER.raw_decode(self.text, self.position)
                check_depth(found)
            except json.JSONDecodeError as error:
                if len(self.text) - self.position > _LONGEST_ENTRY or not self._more():
                    raise self._wrong(f"not whole JSON ({error.msg}). Fetch it anew") from error
            except RecursionError as error:
                raise self._wrong(f"nested deeper than {MAX_DEPTH} levels") from error
            except ValueError as error:
                raise self._wrong(str(error)) from error
            else:
                if end < len(self.text) or not self._more():  # a number may go on behind the piece
                    self.position = min(end, len(self.text))
                    return found

    def _more(self) -> bool:
        # An entry longer than a piece is tried again with twice as much, not piece by piece.
        rest = self.text[self.position :]
        try:
            read = self.file.read(max(_CHUNK, len(rest)))
        except UnicodeDecodeError as error:
            raise self._wrong("not UTF-8. Save the file as UTF-8") from error
        self.text, self.position = rest + read, 0
        return bool(read)

    def _wrong(self, problem: str) -> ValueError:
        return ValueError(f"{self.path}, behind {self.last!r}: {problem}.")
