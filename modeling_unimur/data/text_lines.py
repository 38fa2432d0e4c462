"""Lines of a text file, where a line feed ends a line and nothing else does."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

# `str.splitlines` and some readers also split at U+0085, U+2028, form feeds and others, which texts may hold.
_BOM = b"\xef\xbb\xbf"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
# A longer line is a damaged file; it is passed over without being held in memory.
LONGEST_LINE = 1 << 26


class Line(NamedTuple):
    """The text of a line without its end, or its JSON value, or what is wrong with it; `number` begins at 1."""

    number: int
    value: Any
    problem: str | None = None


def scan_lines(file: IO[bytes], name: str = "the file", errors: str = "surrogatepass") -> Iterator[Line]:
    """All lines of a file (opened in binary mode, called `name` in errors), also empty ones, one in memory at a time;
    a byte order mark and CRLF are accepted. `errors` is that of `bytes.decode`: with `"replace"` no line has that
    problem.

    Raises:
        ValueError: the file is in UTF-16.
    """
    number = 0
    while data := file.readline(LONGEST_LINE + 1):
        number += 1
        if len(data) > LONGEST_LINE and not data.endswith(b"\n"):
            while data and not data.endswith(b"\n"):
                data = file.readline(LONGEST_LINE)
            yield Line(number, None, f"longer than {LONGEST_LINE >> 20} MiB")
            continue
        if number == 1:
            if data.startswith(_UTF_16):
                raise ValueError(f"{name} is in UTF-16: save it as UTF-8.")
            data = data.removeprefix(_BOM)
        try:
            yield Line(number, data.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8", errors))
        except UnicodeDecodeError as error:
            yield Line(number, None, f"not UTF-8 (byte {error.start}): save the file as UTF-8")


def open_lines(path: str | os.PathLike) -> IO[bytes]:
    """Opens a file of lines.

    Raises:
        FileNotFoundError: it is not there.
        OSError: it is not a regular file: a pipe or a device may never end.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return path.open("rb")


def read_lines(path: str | os.PathLike, errors: str = "surrogatepass") -> Iterator[str]:
    """All lines of a file in UTF-8, also empty ones, without their ends; `errors` as `scan_lines` takes it.

    Raises:
        FileNotFoundError, OSError: as `open_lines` says.
        ValueError: a line cannot be read; the message names file and line.
    """
    with open_lines(path) as file:
        for line in scan_lines(file, str(path), errors):
            if line.problem is not None:
                raise ValueError(f"{path}, line {line.number}: {line.problem}.")
            yield line.value
