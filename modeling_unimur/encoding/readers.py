"""Readers of sources: folders of images, webdataset archives, lines, parquet tables and retrieval sets."""

from __future__ import annotations

import errno
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..data.image_bytes import file_stamp
from ..data.image_files import CAMERA_RAW, printable, walk_images
from ..data.img2dataset import Sample, Skipped, read_samples
from ..data.json_lines import parse_json, scan_json_lines
from ..data.registry import load_retrieval_set
from ..data.text_lines import open_lines, scan_lines
from .items import BadItem, Item, cell_address, make_item, plain_fields

# More of a text file beside an image is no caption, and no payload.
_CAPTION_CHARACTERS = 4096
ARCHIVES_AND_TABLES = {".tar", ".parquet"}


def folder_items(folder: Path) -> Iterator[Item | BadItem]:
    """Images below a folder. The id is the path below it; the payload names the file, `{"image": path}`, and has as
    `caption` what stands in a text file of the image's name (`a.txt` beside `a.png`)."""
    folder = folder.absolute()
    failed: list[OSError] = []
    for path, is_image in walk_images(folder, failed.append):
        name, suffix = printable(path.relative_to(folder).as_posix()), path.suffix.lower()
        if suffix in CAMERA_RAW:
            yield BadItem(name, "a camera's raw image is not read; export it to JPEG")
        elif is_image:
            yield _record_item({"image": os.fspath(path), "text": _caption_beside(path)}, name)
        elif suffix in ARCHIVES_AND_TABLES and path.parent != folder:
            yield BadItem(name, "an archive or a table is read at the top of a folder only; name it as a source")
    for error in failed:
        below = Path(os.fsdecode(error.filename))
        name = printable(below.relative_to(folder).as_posix() if below.is_relative_to(folder) else str(below))
        hides = "" if name == "." else f"{name}/"
        yield BadItem(name, f"the folder cannot be listed: {error.strerror}", hides)


def unread_file(name: str, error: OSError, named: bool = False) -> BadItem:
    """An item whose file cannot be looked at. It hides an item where the file may be there all the same, as on a disk
    that fails."""
    is_gone = error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EINVAL)
    reason = f"{error.strerror or type(error).__name__}: {printable(str(error.filename or name))}"
    return BadItem(name, reason, None if is_gone else ("" if named else name))


def _caption_beside(image: Path) -> str:
    words = image.with_suffix(".txt")
    try:
        if not words.is_file():  # a pipe would never end
            return ""
        with open(words, encoding="utf-8-sig", errors="replace") as file:
            return file.read(_CAPTION_CHARACTERS).strip()
    except OSError:
        return ""


def archive_items(archives: list[str], name_of: Callable[[str], str] = os.path.basename) -> Iterator[Item | BadItem]:
    """Images of webdataset archives. The id is `archive.tar/name`; the payload has the image's address, the
    caption (`.txt`, or `caption` in `.json`) and the fields of `.json`. A sample of a text alone is a text.

    Args:
        archives: their paths.
        name_of: what ids call each.
    """
    for archive in archives:
        called = printable(name_of(archive))
        try:
            file_stamp(archive)
        except OSError as error:
            bad = unread_file(f"{called}/", error)
            reason = bad.reason if bad.hides else f"archive is missing: {bad.reason}"
            yield bad._replace(item=printable(archive), reason=reason)
            continue
        for sample in read_samples([archive]):
            if isinstance(sample, Skipped):
                yield BadItem(printable(archive), printable(f"{sample.reason}: {sample.item}"), f"{called}/")
                continue
            name = f"{called}/{printable(sample.name)}"
            try:
                yield from _sample_items(sample, name)
            except (OSError, ValueError, tarfile.TarError) as error:
                yield BadItem(name, f"its members cannot be read: {printable(str(error))}", name)


def _sample_items(sample: Sample, name: str) -> Iterator[Item | BadItem]:
    fields = {}
    if "json" in sample.members:
        try:
            record = parse_json(sample.bytes("json"))
            fields = plain_fields(record, "image", "text") if isinstance(record, dict) else {}
        except ValueError as error:
            yield BadItem(name, f"its .json is left out: {error}")
    address, caption = sample.image(), sample.caption()
    if caption:
        fields["caption"] = caption
    if address is not None:
        yield make_item("image", name, address, {"image": printable(address), **fields}, file_stamp(address))
    elif caption:
        yield make_item("text", name, caption, {"text": caption, **fields})
    else:
        yield BadItem(name, "neither an image nor a text")


_ROWS = 1024


def line_items(files: list[str], name_of: Callable[[str], str] = os.path.basename) -> Iterator[Item | BadItem]:
    """A text a line (`.txt`), or a record a line (`.jsonl`): `text`, or `image`, the path of an image as seen from
    the file; `id`, by default `file:line`; everything else goes into the payload. An image's `text` is its caption.

    Args:
        files: their paths.
        name_of: what ids call each.
    """
    for name in files:
        called, plain = printable(name_of(name)), name.lower().endswith(".txt")
        try:
            with open_lines(name) as file:
                for line in scan_lines(file, name, errors="replace") if plain else scan_json_lines(file, name):
                    place = f"{called}:{line.number}"
                    if line.problem is not None:
                        yield BadItem(place, line.problem)
                    elif not plain:
                        yield _line_item(Path(name), place, line.value)
                    elif line.value.strip():
                        yield make_item("text", place, line.value, {"text": line.value})
        except OSError as error:
            # What lies in a file that cannot be read may have ids of its own.
            yield unread_file(printable(name), error, named=True)
        except ValueError as error:
            yield BadItem(printable(name), printable(f"not a file of lines: {error}"), "")


def _line_item(file: Path, place: str, record: Any) -> Item | BadItem:
    if isinstance(record, str):
        record = {"text": record}
    if not isinstance(record, dict):
        return BadItem(place, f"neither a record nor a text: {printable(repr(record)[:60])}")
    return _record_item(record, place, file.parent)


def _record_item(record: dict, place: str, folder: Path | str = "", stamp: str | None = None) -> Item | BadItem:
    """The item of a record, which is called `place` if it says no `id` of its own; images lie in the folder. `stamp`
    is that of the image, by default its file's."""
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
        stamp = stamp or file_stamp(address)
    except OSError as error:
        return unread_file(printable(item_id), error, named)
    except ValueError as error:  # a path with a NUL in it
        return BadItem(printable(item_id), f"its image is no path: {error}")
    return make_item("image", item_id, address, {"image": printable(address), **fields}, stamp, named)


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
    for name in tables:
        called = printable(name_of(name))
        try:
            stamp = file_stamp(name)
            with pq.ParquetFile(name) as file:
                yield from _rows(name, called, file, stamp)
        except (OSError, ValueError, pa.ArrowException) as error:
            if getattr(error, "errno", None) is not None:
                yield unread_file(printable(name), error, named=True)
            else:
                yield BadItem(printable(name), printable(f"not a parquet table that can be read: {error}"), "")


def _rows(name: str, called: str, file, stamp: str) -> Iterator[Item | BadItem]:
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
                yield _record_item({**record, "image": elsewhere.get(row, record.get("image"))}, place, folder)
                continue
            address = cell_address(name, "image", group, row)
            yield _record_item({**record, "image": address}, place, stamp=f"{stamp}\0{group}/{row}")


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


def set_items(source: str) -> Iterator[Item | BadItem]:
    """Documents of a retrieval set: texts, and images with their captions; further columns go into the payload."""
    for record in load_retrieval_set(source).corpus:
        name, kind = record.pop("doc_id"), record.pop("kind")
        image = None if kind == "text" else record["image"] or ""
        yield _record_item({**record, "id": name, "text": record["text"] or "", "image": image}, name)
