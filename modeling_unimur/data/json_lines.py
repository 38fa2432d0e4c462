"""JSON lines, read and written in one way everywhere."""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from .text_lines import open_lines, scan_lines

logger = logging.getLogger(__name__)

# Deeper values end the recursion of whatever reads, writes or walks them next.
MAX_DEPTH = 100
# Control characters inside a string are accepted: hand-written files hold tabs.
_DECODER = json.JSONDecoder(strict=False)
# JSON allows these in a string as they are, and other readers take them for the end of a line.
_LINE_ENDS = re.compile("[\x85\u2028\u2029]")


class JsonLine(NamedTuple):
    """The value of a line, or what is wrong with it.

    Args:
        number: of the line, from 1.
        value: what the line holds.
        problem: why it holds no value, None where it does.
    """

    number: int
    value: Any
    problem: str | None = None


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text, or of its bytes in UTF-8.

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


def check_depth(value: Any) -> None:
    """Raises a ValueError for a value that is nested deeper than `MAX_DEPTH`."""
    depth, level = 0, [value]
    while level := [
        inner
        for outer in level
        if isinstance(outer, (dict, list))
        for inner in (outer.values() if isinstance(outer, dict) else outer)
    ]:
        depth += 1
        if depth > MAX_DEPTH:
            raise ValueError(f"nested deeper than {MAX_DEPTH} levels")


# -- reading --------------------------------------------------------------------------------------------------------
def scan_json_lines(file: IO[bytes], name: str = "the file") -> Iterator[JsonLine]:
    """All lines of a file but for empty ones, one in memory at a time; for a caller that passes bad ones over.

    Args:
        file: opened in binary mode.
        name: how an error calls it.

    Raises:
        ValueError: the file is in UTF-16.
    """
    for number, text, problem in scan_lines(file, name):
        if text is None:
            yield JsonLine(number, None, problem)
        elif text and not text.isspace():
            try:
                yield JsonLine(number, parse_json(text))
            except ValueError as error:
                yield JsonLine(number, None, str(error))


def read_json_lines(path: str | os.PathLike) -> Iterator[tuple[int, Any]]:
    """Number and value of all lines of a file but for empty ones.

    Raises:
        FileNotFoundError, OSError: as `open_lines` says.
        ValueError: a line cannot be read; the message names file and line.
    """
    with open_lines(path) as file:
        for number, value, problem in scan_json_lines(file, str(path)):
            if problem is not None:
                raise ValueError(f"{path}, line {number}: {problem}.")
            yield number, value


def line_objects(file: IO[bytes], name: str) -> Iterator[dict]:
    """Objects of a file that has one per line; lines that are none are passed over, and counted in the log.

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
def json_line(value: Any, default: Callable | None = None) -> bytes:
    """A value as one line, in UTF-8; surrogates that stand alone, and what others take for a line's end, are escaped.

    Args:
        value: what JSON can hold.
        default: for what it cannot, as `json.dumps` takes it.
    """
    text = json.dumps(value, ensure_ascii=False, default=default)
    text = _LINE_ENDS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    try:
        return text.encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(value, default=default).encode("ascii") + b"\n"


def write_json_lines(path: str | os.PathLike, values: Iterable[Any]) -> int:
    """Writes a file that is there whole or not at all, and its folder; returns the number of lines."""
    path, count = Path(os.path.realpath(path)), 0
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name[:60]}.{secrets.token_hex(4)}.part")
    try:
        with aside.open("wb") as file:
            for value in values:
                file.write(json_line(value))
                count += 1
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    return count


def append_json_lines(path: str | os.PathLike, values: Iterable[Any]) -> None:
    """Adds lines to a file, behind a line that a kill has left half; they are on the disk when this returns."""
    lines = b"".join(map(json_line, values))
    with open(path, "ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            lines = lines if file.read(1) == b"\n" else b"\n" + lines
        file.write(lines)
        file.flush()
        os.fsync(file.fileno())


__all__ = [
    "MAX_DEPTH",
    "JsonLine",
    "append_json_lines",
    "check_depth",
    "json_line",
    "line_objects",
    "parse_json",
    "read_json_lines",
    "scan_json_lines",
    "write_json_lines",
]
