"""The bytes behind an item: a text, a file, a member of a tar archive, a cell of a parquet table."""

from __future__ import annotations

import os
import re
from functools import lru_cache

from ..data.picture_bytes import read_picture_bytes
from .items import Item

_CELL = re.compile(r"(?P<table>.+)#(?P<column>[^#]+)@(?P<group>\d+)/(?P<row>\d+)", re.DOTALL)


def cell_address(table: str, column: str, group: int, row: int) -> str:
    """Address of the image in a row of a row group of a parquet table: `x.parquet#image@0/17`."""
    return f"{table}#{column}@{group}/{row}"


def read_content(item: Item) -> bytes:
    """Content of an item.

    Raises:
        OSError: a file is missing or cannot be read.
        ValueError: it holds no image there.
    """
    if item.kind == "text":
        return item.content.encode("utf-8", "surrogatepass")
    cell = _CELL.fullmatch(item.content)
    if cell is None:
        return read_picture_bytes(item.content)
    value = _column(cell["table"], cell["column"], int(cell["group"]))[int(cell["row"])].as_py()
    if isinstance(value, dict):  # as `datasets` stores images
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str):  # as seen from the table
        return read_picture_bytes(os.path.join(os.path.dirname(cell["table"]), value))
    if not isinstance(value, bytes) or not value:
        raise ValueError(f"{item.content}: there is no image in this cell")
    return value


@lru_cache(maxsize=1)  # items come in the order of the table
def _column(table: str, column: str, group: int):
    import pyarrow.parquet as pq

    with pq.ParquetFile(table) as file:
        return file.read_row_group(group, columns=[column]).column(0)


__all__ = ["cell_address", "read_content"]
