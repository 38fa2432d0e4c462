"""Shared code of the image collections: cached tables and rasterised SVGs."""

from __future__ import annotations

import logging
import os
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from modeling_unimur.data.atomic_files import atomic_file
from modeling_unimur.data.cache import build_once, cache_dir
from modeling_unimur.data.captioned_images import IMAGE_FEATURES, ImageRow

logger = logging.getLogger(__name__)

# Raised whenever a reader's rows change, so that tables cached by an older version are not read.
TABLE_VERSION = 1


def cached_rows(name: str, build: Callable[[], list[ImageRow]]) -> list[ImageRow]:
    """The rows that `build` returns, kept as a parquet file in the cache.

    Paths are stored relative to the cache, which may be moved. A table that names a file which is gone is built anew.
    """
    cache = cache_dir()
    path = cache / "data" / f"{name}-{TABLE_VERSION}.parquet"
    if path.is_file():
        rows = pq.read_table(path).to_pylist()
        for row in rows:
            row["image"] = str(cache / row["image"])
        if all(os.path.exists(row["image"]) for row in rows):
            return rows
        logger.warning("Images of %s are missing from %s: reading the source again", name, cache)
    rows = build()
    table = pa.Table.from_pylist(
        [{**row, "image": os.path.relpath(row["image"], cache)} for row in rows],
        schema=IMAGE_FEATURES.arrow_schema.remove_metadata(),
    )
    with atomic_file(path) as aside:
        pq.write_table(table, aside)
    return rows


def rasterise_svg(svg: Path, png: Path, *, size: int) -> None:
    """Draws an SVG on white into a PNG whose longer side has `size` pixels; ValueError where resvg cannot."""
    try:
        import resvg_py
    except ImportError as error:
        raise ImportError("Drawing SVG files needs resvg-py: pip install unimur[demo]") from error
    try:
        # 96 dots per inch is CSS's own; without it sizes in pt or mm come out as nothing.
        # System fonts would make the image differ from machine to machine.
        drawn = resvg_py.svg_to_bytes(
            svg_path=str(svg), background="white", width=size, height=size, dpi=96, skip_system_fonts=True
        )
    except ValueError as error:
        raise ValueError(f"{svg}: resvg cannot draw it: {error}") from error
    png.parent.mkdir(parents=True, exist_ok=True)
    png.write_bytes(bytes(drawn))


def drawn_svgs(name: str, svgs: Mapping[str, Path], size: int) -> Path:
    """A folder of the cache, by `name`, with a PNG of each SVG, drawn once by `rasterise_svg`; those that fail are
    logged. `svgs` goes by the paths of the PNGs below it, without `.png`."""

    def draw(folder: Path) -> None:
        for png, svg in tqdm(svgs.items(), desc=f"Drawing {name}", unit="image"):
            try:
                rasterise_svg(svg, folder / f"{png}.png", size=size)
            except ValueError as error:
                logger.warning("%s", error)

    return build_once(cache_dir() / "images" / name, draw)


def png_pixels(path: Path) -> int:
    """Width x height that a PNG's header declares, without decoding it. Raises ValueError for another file."""
    with path.open("rb") as file:
        header = file.read(24)
    if len(header) < 24 or header[:8] != b"\x89PNG\r\n\x1a\n" or header[12:16] != b"IHDR":
        raise ValueError(f"{path}: not a PNG file")
    width, height = struct.unpack(">II", header[16:24])
    return width * height
