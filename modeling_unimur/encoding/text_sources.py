"""Texts, and images that they name, in lines and in parquet tables."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..data.json_lines import scan_json_lines
from ..data.picture_bytes import FileStamps
from ..data.picture_files import printable
from ..data.text_lines import open_lines, scan_lines
from .items import BadItem, Item, make_item, plain_fields
from .picture_sources import unread_file
from .reading import cell_address

_ROWS = 1024


def line_items(files: list[str], name_of: Callable[[str], str] = os.path.basename) -> Iterator[Item | BadItem]:
    """A text a line (`.txt`), or a record a line (`.jsonl`): `text`, or `image`, the path of an image as seen from
    the file; `id`, by default `file:line`; everything else goes into the payload. An image's `text` is its caption.

    Args:
        files: their paths.
        name_of: what ids call each.
    """
    stamps = FileStamps()
    for name in files:
        called, plain = printable(name_of(name)), name.lower().endswith(".txt")
        try:
            with open_lines(name) as file:
                for line in scan_lines(file, name, errors="replace") if plain else scan_json_lines(file, name):
                    place = f"{called}:{line.number}"
                    if line.problem is not None:
                        yield BadItem(place, line.problem)
                    elif not plain:
                        yield _line_item(Path(name), place, line.value, stamps)
                    elif line.text.strip():
                        yield make_item("text", place, line.text, {"text": line.text})
        except OSError as error:
            # What lies in a file that cannot be read may have ids of its own.
            yield unread_file(printable(name), error, named=True)
        except ValueError as error:
            yield BadItem(printable(name), printable(f"not a file of lines: {error}"), "")


def _line_item(file: Path, place: str, record: Any, stamps: FileStamps) -> Item | BadItem:
    if isinstance(record, str):
        record = {"text": record}
    if not isinstance(record, dict):
        return BadItem(place, f"neither a record nor a text: {printable(repr(record)[:60])}")
    return _record_item(record, place, file.parent, stamps)


def _record_item(record: dict, place: str, folder: Path, stamps: FileStamps) -> Item | BadItem:
    """The item of a record, which is called `place` if it says no `id` of its own."""
    given, named = record.get("id"), record.get("id") is not None
    if named and (isinstance(given, bool) or not isinstance(given, (str, int, float))):
        return BadItem(place, f"its id is no string: {printable(repr(given)[:60])}")
    item_id = str(given) if named else place
    text, image = record.get("text"), record.get("image")
    if image is None and not isinstance(text, str):
        return BadItem(printable(item_id), "it has neither text nor image")
    fields = plain_fields(record, "id", "image", "text")
    if image is None:
        return make_item("text", item_id, text, {"text": text, **fields}, named=named)
    if not isinstance(image, str):
        return BadItem(printable(item_id), f"its image is no path: {type(image).__name__}")
    address = os.path.join(folder, image)
    if isinstance(text, str) and text.strip():
        fields.setdefault("caption", text)
    try:
        stamp = stamps.stamp(address)
    except OSError as error:
        return unread_file(printable(item_id), error, named)
    except ValueError as error:  # a path with a NUL in it
        return BadItem(printable(item_id), f"its image is no path: {error}")
    return make_item("image", item_id, address, {"image": address, **fields}, stamp, named)


def table_items(tables: list[str], name_of: Callable[[str], str] = os.path.basename) -> Iterator[Item | BadItem]:
    """Rows of parquet tables with the columns of `line_items`; `image` may hold the image itself, as bytes or as
    `datasets` stores it, or its path as seen from the table; a row without one is a text. The id is `file:row` where
    there is no column `id`.

    Args:
        tables: their paths.
        name_of: what ids call each.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ImportError("Parquet tables are read by pyarrow: `pip install unimur[encode]`.") from error
    stamps = FileStamps()
    for name in tables:
        called = printable(name_of(name))
        try:
            stamp = stamps.stamp(name)
            with pq.ParquetFile(name) as file:
                yield from _rows(name, called, file, stamp, stamps)
        except (OSError, ValueError, pa.ArrowException) as error:
            if getattr(error, "errno", None) is not None:
                yield unread_file(printable(name), error, named=True)
            else:
                yield BadItem(printable(name), printable(f"not a parquet table that can be read: {error}"), "")


def _rows(name: str, called: str, file, stamp: str, stamps: FileStamps) -> Iterator[Item | BadItem]:
    schema = file.schema_arrow
    embedded = "image" in schema.names and not str(schema.field("image").type).endswith("string")
    if not {"text", "image"} & set(schema.names):
        columns = ", ".join(schema.names)
        yield BadItem(printable(name), f"no column text or image; rename the one that is meant: {columns}", "")
        return
    columns = [column for column in schema.names if not (embedded and column == "image")]
    number, folder = 0, Path(name).parent
    for group in range(file.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        parts = file.iter_batches(_ROWS, row_groups=[group], columns=columns) if columns else ()
        records = (record for part in parts for record in part.to_pylist()) if columns else ({} for _ in range(rows))
        elsewhere = _cells_without_bytes(file, group) if embedded else {}
        for row, record in enumerate(records):
            place = f"{called}:{number}"
            number += 1
            if not embedded or row in elsewhere:
                yield _record_item({**record, "image": elsewhere.get(row, record.get("image"))}, place, folder, stamps)
                continue
            named = record.get("id") is not None
            address, fields = cell_address(name, "image", group, row), plain_fields(record, "id", "text")
            if isinstance(record.get("text"), str):
                fields.setdefault("caption", record["text"])
            item_id, key = str(record["id"]) if named else place, f"{stamp}\0{group}/{row}"
            yield make_item("image", item_id, address, {"image": printable(address), **fields}, key, named)


def _cells_without_bytes(file, group: int) -> dict[int, str | None]:
    """Rows of a row group whose `image` holds no bytes, and the path that it has instead.

    The images are looked at only where the table's own counts say that some are missing.
    """
    about = file.metadata.row_group(group)
    for number in range(about.num_columns):
        column = about.column(number)
        counts = column.statistics
        is_bytes = column.path_in_schema in ("image", "image.bytes")
        if is_bytes and counts is not None and counts.has_null_count and counts.null_count == 0:
            return {}
    found: dict[int, str | None] = {}
    for row, cell in enumerate(file.read_row_group(group, columns=["image"]).column(0)):
        is_struct = hasattr(cell, "keys")
        data = cell["bytes"] if is_struct and cell.is_valid and "bytes" in cell else None if is_struct else cell
        if data is None or not data.is_valid:
            path = cell["path"].as_py() if is_struct and cell.is_valid and "path" in cell else None
            found[row] = path or None
    return found


__all__ = ["line_items", "table_items"]
