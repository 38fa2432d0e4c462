"""Texts, and pictures that they name, in lines and in parquet tables."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...data.json_lines import scan_json_lines
from ...data.picture_bytes import FileStamps
from ...data.text_lines import open_lines, scan_lines
from .items import BadItem, Item, make_item, plain_fields
from .reading import cell_address

_ROWS = 1024


def line_items(files: list[str]) -> Iterator[Item | BadItem]:
    """A text a line (`.txt`), or a record a line (`.jsonl`): `text`, or `image`, the path of a picture as seen from
    the file; `id`, by default `file:line`; everything else goes into the payload. A picture's `text` is its
    caption."""
    stamps = FileStamps()
    for name in files:
        try:
            with open_lines(name) as file:
                plain = name.lower().endswith(".txt")
                for line in scan_lines(file, name, errors="replace") if plain else scan_json_lines(file, name):
                    place = f"{Path(name).name}:{line.number}"
                    if line.problem is not None:
                        yield BadItem(place, line.problem)
                    elif not plain:
                        yield _line_item(Path(name), place, line.value, stamps)
                    elif line.text.strip():
                        yield make_item("text", place, line.text, {"text": line.text})
        except (OSError, ValueError) as error:
            yield BadItem(name, getattr(error, "strerror", None) or str(error))


def _line_item(file: Path, place: str, record: Any, stamps: FileStamps) -> Item | BadItem:
    if isinstance(record, str):
        record = {"text": record}
    if not isinstance(record, dict):
        return BadItem(place, f"neither a record nor a text: {record!r:.60}")
    item_id = place if record.get("id") is None else str(record["id"])
    return _record_item(record, item_id, file.parent, stamps)


def _record_item(record: dict, item_id: str, folder: Path, stamps: FileStamps) -> Item | BadItem:
    fields, text, image = plain_fields(record, "id", "image", "text"), record.get("text"), record.get("image")
    if image is None:
        if not isinstance(text, str):
            return BadItem(item_id, "it has neither text nor image")
        return make_item("text", item_id, text, {"text": text, **fields})
    if not isinstance(image, str):
        return BadItem(item_id, f"image is the path of a picture, not {type(image).__name__}")
    address = os.path.join(folder, image)
    if isinstance(text, str) and text.strip():
        fields.setdefault("caption", text)
    try:
        stamp = stamps.stamp(address)
    except OSError as error:
        return BadItem(item_id, f"{address}: {error.strerror or error}")
    return make_item("image", item_id, address, {"image": address, **fields}, stamp)


def table_items(tables: list[str]) -> Iterator[Item | BadItem]:
    """Rows of parquet tables with the columns of `line_items`; `image` may hold the picture itself, as bytes or as
    `datasets` stores it. The id is `file:row` where there is no column `id`."""
    try:
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ImportError("Parquet tables are read by pyarrow: `pip install unimur[encode]`.") from error
    stamps = FileStamps()
    for name in tables:
        try:
            with pq.ParquetFile(name) as file:
                yield from _rows(name, file, stamps)
        except (OSError, ValueError) as error:
            yield BadItem(name, f"not a parquet table that can be read: {error}")


def _rows(name: str, file, stamps: FileStamps) -> Iterator[Item | BadItem]:
    schema = file.schema_arrow
    embedded = "image" in schema.names and not str(schema.field("image").type).endswith("string")
    if not {"text", "image"} & set(schema.names):
        yield BadItem(name, f"no column text or image, only {', '.join(schema.names)}: rename the one that is meant")
        return
    columns = [column for column in schema.names if not (embedded and column == "image")]
    number, stamp, path = 0, stamps.stamp(name), Path(name)
    for group in range(file.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        parts = file.iter_batches(_ROWS, row_groups=[group], columns=columns) if columns else ()
        records = (record for part in parts for record in part.to_pylist()) if columns else ({} for _ in range(rows))
        for row, record in enumerate(records):
            item_id = str(record["id"]) if record.get("id") is not None else f"{path.name}:{number}"
            number += 1
            if not embedded:
                yield _record_item(record, item_id, path.parent, stamps)
                continue
            address, fields = cell_address(name, "image", group, row), plain_fields(record, "id", "text")
            if isinstance(record.get("text"), str):
                fields.setdefault("caption", record["text"])
            yield make_item("image", item_id, address, {"image": address, **fields}, f"{stamp}\0{group}/{row}")


__all__ = ["line_items", "table_items"]
