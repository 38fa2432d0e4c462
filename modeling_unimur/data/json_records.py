"""Files of many JSON objects, one in memory at a time."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

_CHUNK = 2**20
_SPACE = " \t\r\n"


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
    decoder = json.JSONDecoder()
    with path.open(encoding="utf-8-sig") as file:
        buffer, number, in_array = "", 0, None
        while True:
            buffer = buffer.lstrip(_SPACE + ("," if in_array and number else ""))
            if in_array is None and buffer:
                in_array = buffer[0] == "["
                buffer = buffer[in_array:].lstrip(_SPACE)
            if in_array and buffer[:1] == "]":
                return
            try:
                record, end = decoder.raw_decode(buffer)
            except json.JSONDecodeError as error:
                more = file.read(chunk_size)
                if more:
                    buffer += more
                    continue
                if not buffer and not in_array:
                    return
                raise ValueError(f"{path}, object {number}: not whole JSON ({error.msg}). Fetch it anew.") from error
            if not isinstance(record, dict):
                raise ValueError(f"{path}, object {number}: {str(record)[:60]!r} is no JSON object.")
            yield record
            number += 1
            buffer = buffer[end:]


__all__ = ["read_json_records"]
