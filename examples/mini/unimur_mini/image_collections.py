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

# Increased whenever a reader's rows change, so that tables cached by an older version are not read.
TABLE_VERSION = 1


def cached_rows(name: str, build: Callable[[], list[ImageRow]]) -> list[ImageRow]:
    """Returns the rows of `build`, which are kept as a parquet file in the cache.

    Paths are stored relative to the cache, so that it can be moved. A table is rebuilt if an image of it is missing.
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
    """Draws an SVG on a white background into a PNG whose longer side has `size` pixels.

    Raises:
        ImportError: if `resvg-py` is not installed.
        ValueError: if resvg cannot draw the file.
    """
    try:
        import resvg_py
    except ImportError as error:
        raise ImportError("Drawing SVG files needs resvg-py: pip install unimur[demo]") from error
    try:
        # CSS assumes 96 dots per inch; without `dpi`, sizes in pt or mm become 0.
        # With system fonts, the image would differ between machines.
        drawn = resvg_py.svg_to_bytes(
            svg_path=str(svg), background="white", width=size, height=size, dpi=96, skip_system_fonts=True
        )
    except ValueError as error:
        raise ValueError(f"{svg}: resvg cannot draw it: {error}") from error
    png.parent.mkdir(parents=True, exist_ok=True)
    png.write_bytes(bytes(drawn))


def drawn_svgs(name: str, svgs: Mapping[str, Path], size: int) -> Path:
    """Draws SVGs into PNGs once, and returns the folder of the cache that holds them. SVGs that fail are logged.

    Args:
        name: Name of the folder.
        svgs: Path of each PNG below the folder, without `.png`, and the SVG that is drawn into it.
        size: Number of pixels of the longer side.
    """

    def draw(folder: Path) -> None:
        for png, svg in tqdm(svgs.items(), desc=f"Drawing {name}", unit="image"):
            try:
                rasterise_svg(svg, folder / f"{png}.png", size=size)
            except ValueError as error:
                logger.warning("%s", error)

    return build_once(cache_dir() / "images" / name, draw)


def png_pixels(path: Path) -> int:
    """Reads the number of pixels (width x height) from a PNG's header, without decoding the image.

    Raises:
        ValueError: if the file is not a PNG.
    """
    with path.open("rb") as file:
        header = file.read(24)
    if len(header) < 24 or header[:8] != b"\x89PNG\r\n\x1a\n" or header[12:16] != b"IHDR":
        raise ValueError(f"{path}: not a PNG file")
    width, height = struct.unpack(">II", header[16:24])
    return width * height
