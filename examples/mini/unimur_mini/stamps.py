"""Tux Paint's stamps (Debian package `tuxpaint-stamps-default`) as captioned images: photographs and drawings."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from datasets import Dataset

from modeling_unimur.data.captioned_images import ImageRow, image_dataset
from modeling_unimur.image_loading import MAX_PIXELS

from .image_collections import cached_rows, drawn_svgs, png_pixels
from .packages import debian_package

logger = logging.getLogger(__name__)

_OPENING = re.compile(r"^(?:this is|these are|here is)?\s*(?:an?|the|some)\s+", re.IGNORECASE)
IMAGE_SIZE = 384


def load_stamps() -> Dataset:
    """Reads about 1,000 stamps with the columns of `captioned_images`. Licence: GPL-2.0 or later.

    The description is the English text that the package has for the image. The title is its first sentence without the
    article and the full stop, and the tags are the names of the folders. SVGs are rasterised once on a white
    background, with 384 pixels on the longer side.

    Raises:
        ImportError: if `resvg-py` is not installed (`pip install unimur[demo]`).
        PackageUnavailable: if apt cannot download the package.
    """

    def read_package() -> list[ImageRow]:
        return read_folder(debian_package("tuxpaint-stamps-default") / "usr/share/tuxpaint/stamps")

    return image_dataset(cached_rows("stamps", read_package))


def sentence_title(sentence: str) -> str:
    """Returns the thing that a stamp's sentence names: "A steam locomotive." -> "steam locomotive"."""
    first = re.split(r"(?<=[.!?])\s", sentence.strip(), maxsplit=1)[0]
    title = _OPENING.sub("", first).strip(" .!")
    return title or first


def read_folder(stamps: Path) -> list[ImageRow]:
    """Reads a row for every PNG or SVG with a description below `stamps`, sorted by name.

    SVGs are drawn into `<cache>/images`.
    """
    images: dict[str, Path] = {}
    # If a stamp is present in both formats, the PNG is used: some of the SVGs need fonts.
    for path in [*sorted(stamps.rglob("*.svg")), *sorted(stamps.rglob("*.png"))]:
        images[path.relative_to(stamps).with_suffix("").as_posix()] = path
    sentences = {name: _sentence(path.with_suffix(".txt")) for name, path in images.items()}
    described = {name: images[name] for name in sorted(images) if sentences[name]}
    drawings = {name: path for name, path in described.items() if path.suffix == ".svg"}
    failed = 0
    drawn = drawn_svgs(f"stamps-{IMAGE_SIZE}", drawings, IMAGE_SIZE)
    rows: list[ImageRow] = []
    for name, path in described.items():
        image = drawn / f"{name}.png" if name in drawings else path
        try:
            if png_pixels(image) > MAX_PIXELS:
                raise ValueError(f"{image}: more than {MAX_PIXELS} pixels")
        except (OSError, ValueError) as error:
            logger.debug("%s", error)
            failed += 1
            continue
        rows.append(
            ImageRow(
                image_id=f"stamps/{name}",
                image=str(image),
                title=sentence_title(sentences[name]),
                description=sentences[name],
                tags=[folder.replace("_", " ") for folder in name.split("/")[:-1]],
                source="stamps",
                license="GPL-2.0-or-later",
                author="Tux Paint contributors",
            )
        )
    nameless = len(images) - len(described)
    logger.info("Stamps: %d images; left out: %d without a sentence, %d unreadable", len(rows), nameless, failed)
    return rows


def _sentence(path: Path) -> str:
    # The first line is English; the others begin with a language code.
    try:
        first = path.read_text(encoding="utf-8", errors="replace").partition("\n")[0]
    except OSError:
        return ""
    return " ".join(first.split())
