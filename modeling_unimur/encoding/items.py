"""What a source holds: items to encode, with the bytes behind them, and what cannot be encoded."""

from __future__ import annotations

import datetime
import decimal
import functools
import logging
import os
import re
from functools import lru_cache
from typing import Any, NamedTuple

from ..data.image_bytes import read_image_bytes
from ..data.image_files import printable
from ..data.row_store import key_of
from ..index.base import payload_text
from ..memory_index import checked_id, plain_value

logger = logging.getLogger(__name__)


class Item(NamedTuple):
    """One text or image.

    Args:
        kind: `"text"` or `"image"`.
        id: unique within its kind.
        content: the text itself, or the address of the image (`reading`).
        payload: JSON of what comes back with a hit.
        stamp: changes when the content or the payload may have.
        named: whether the source itself gives the id, which is then kept as it is.
    """

    kind: str
    id: str
    content: str
    payload: str
    stamp: str
    named: bool = False


class BadItem(NamedTuple):
    """Something that cannot be encoded.

    Args:
        item: what it is called.
        reason: why, as `"reason"` or `"reason: particulars"`.
        hides: how the ids of items begin that may lie behind it, such as those of a folder that cannot be listed; None
            where there are none.
    """

    item: str
    reason: str
    hides: str | None = None


def make_item(
    kind: str, item_id: str, content: str, payload: dict[str, Any], stamp: str = "", named: bool = False
) -> Item | BadItem:
    """Make an item, or a `BadItem` for an empty text or an id or payload that no index accepts.

    Args:
        kind, item_id, content, named: fields of `Item`.
        payload: fields that JSON can hold.
        stamp: stamp of the file of an image.
    """
    what = "id"
    try:
        checked_id(item_id)
        what = "payload"
        written = payload_text(item_id, payload)
    except ValueError as error:
        return BadItem(printable(str(item_id)), printable(f"no index takes its {what}: {error}"))
    if kind == "text" and not content.strip():
        return BadItem(item_id, "an empty text")
    return Item(kind, item_id, content, written, key_of(f"{stamp}\0{written}").hex(), named)


def plain_fields(record: dict[str, Any], *without: str) -> dict[str, Any]:
    """Fields of a record that JSON can hold, but for some; dates become their ISO texts, decimals numbers. Missing
    values (None, NaN) are left out, and so is what JSON cannot hold, which the log says once a field."""
    fields = {}
    for key, value in record.items():
        if key in without or value is None or (isinstance(value, float) and value != value):
            continue
        if isinstance(value, (datetime.date, datetime.time)):
            value = value.isoformat()
        elif isinstance(value, decimal.Decimal):
            value = float(value)
        try:
            fields[key] = plain_value(value)
        except ValueError as error:
            _warn_of_field(key, str(error))
    return fields


@functools.lru_cache(maxsize=1000)
def _warn_of_field(key: str, problem: str) -> None:
    logger.warning("Field %r is left out of payloads: it %s", key, problem)


_CELL = re.compile(r"(?P<table>.+)#(?P<column>[^#]+)@(?P<group>\d+)/(?P<row>\d+)", re.DOTALL)


def cell_address(table: str, column: str, group: int, row: int) -> str:
    """Return the address of an image in a row of a row group of a parquet table: `x.parquet#image@0/17`."""
    return f"{table}#{column}@{group}/{row}"


def read_content(item: Item) -> bytes:
    """Read the content of an item.

    Raises:
        OSError: a file is missing or cannot be read.
        ValueError: it holds no image there.
    """
    if item.kind == "text":
        return item.content.encode("utf-8", "surrogatepass")
    cell = _CELL.fullmatch(item.content)
    if cell is None:
        return read_image_bytes(item.content)
    value = _column(cell["table"], cell["column"], int(cell["group"]))[int(cell["row"])].as_py()
    if isinstance(value, dict):  # as `datasets` stores images
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str):  # as seen from the table
        return read_image_bytes(os.path.join(os.path.dirname(cell["table"]), value))
    if not isinstance(value, bytes) or not value:
        raise ValueError(f"{item.content}: there is no image in this cell")
    return value


@lru_cache(maxsize=1)  # items come in the order of the table
def _column(table: str, column: str, group: int):
    import pyarrow.parquet as pq

    with pq.ParquetFile(table) as file:
        return file.read_row_group(group, columns=[column]).column(0)
