"""The Open Clip Art Library (Debian packages `openclipart-png` and `openclipart-svg`) as captioned images."""

from __future__ import annotations

import hashlib
import io
import logging
import re
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from datasets import Dataset

from modeling_unimur.data.captioned_images import ImageRow, image_dataset
from modeling_unimur.image_loading import MAX_PIXELS

from .image_collections import cached_rows, png_pixels
from .packages import debian_package

logger = logging.getLogger(__name__)

_EMAIL = re.compile(r"(?:contact:\s*)?\S+@\S+\.\w+", re.IGNORECASE)
# Text that the library's tools wrote in place of words: printed Perl references, or the name of a whole upload.
_NOISE = re.compile(r"HASH(?:\(0x|$)|clip ?art by", re.IGNORECASE)
_RESOURCE = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}resource"
_LICENSES = {
    "http://web.resource.org/cc/PublicDomain": "Public Domain",
    "http://creativecommons.org/licenses/publicdomain/": "Public Domain",
    "http://creativecommons.org/licenses/GPL/2.0/": "GPL-2.0",
    # The package as a whole is in the public domain.
    "": "Public Domain",
}


class ClipArtWords(NamedTuple):
    """The RDF metadata of an SVG, unchanged."""

    title: str
    description: str
    keywords: list[str]
    author: str
    license: str


def load_openclipart(*, deduplicate: bool = True) -> Dataset:
    """Reads public-domain drawings with the columns of `captioned_images`.

    Drawings with more pixels than `load_image` accepts are left out.

    Args:
        deduplicate: Whether to drop images without a title, and all but the first of the images that have equal titles
            and keywords, or equal bytes.

    Raises:
        PackageUnavailable: if apt cannot download the two Debian packages.
    """

    def all_rows() -> list[ImageRow]:
        return cached_rows("openclipart-all", _read_packages)

    if deduplicate:
        return image_dataset(cached_rows("openclipart", lambda: _deduplicated(all_rows())))
    return image_dataset(all_rows())


def read_svg_words(svg: bytes) -> ClipArtWords:
    """Reads title, description, keywords, author and licence address from an SVG's RDF metadata.

    Missing fields are empty.

    Raises:
        ValueError: if the bytes up to the end of the metadata are not XML.
    """
    metadata = ElementTree.Element("metadata")
    try:
        for _, element in ElementTree.iterparse(io.BytesIO(svg)):
            if element.tag.rpartition("}")[2] == "metadata":
                metadata = element  # the rest of an SVG, which is mostly paths, is not needed
                break
    except ElementTree.ParseError as error:
        raise ValueError(f"not an SVG file: {error}") from error

    def all_texts(path: str) -> list[str]:
        return [" ".join("".join(element.itertext()).split()) for element in metadata.iterfind(f".//{path}")]

    def first_text(path: str) -> str:
        return next(iter(all_texts(path)), "")

    licenses = (element.get(_RESOURCE, "") for element in metadata.iterfind(".//{*}Work/{*}license"))
    return ClipArtWords(
        title=first_text("{*}Work/{*}title"),
        description=first_text("{*}Work/{*}description"),
        keywords=[word for word in all_texts("{*}subject/{*}Bag/{*}li") if word],
        author=first_text("{*}creator/{*}Agent/{*}title"),
        license=next(filter(None, licenses), ""),
    )


def clean_title(title: str) -> str:
    """Returns the title, or an empty string if it is noise."""
    return "" if _NOISE.search(title) or _EMAIL.search(title) else title


def clean_description(description: str) -> str:
    """Returns the description without e-mail addresses, or an empty string if nothing else or only noise is left."""
    rest = _EMAIL.sub("", description).strip(" ,;:-")
    return "" if _NOISE.search(rest) else rest


def _read_packages() -> list[ImageRow]:
    pngs = debian_package("openclipart-png") / "usr/share/openclipart/png"
    svgs = debian_package("openclipart-svg") / "usr/share/openclipart/svg"
    return read_folders(pngs, svgs)


def read_folders(pngs: Path, svgs: Path) -> list[ImageRow]:
    """Reads a row for every PNG below `pngs`, sorted by name. The SVG of the same name below `svgs` describes it."""
    rows: list[ImageRow] = []
    too_large = unreadable = 0
    for png in sorted(pngs.rglob("*.png")):
        name = png.relative_to(pngs).with_suffix("").as_posix()
        try:
            if png_pixels(png) > MAX_PIXELS:
                too_large += 1
                continue
            words = read_svg_words((svgs / f"{name}.svg").read_bytes())
        except (OSError, ValueError) as error:
            logger.debug("%s: %s", name, error)
            unreadable += 1
            continue
        rows.append(
            ImageRow(
                image_id=f"openclipart/{name}",
                image=str(png),
                title=clean_title(words.title),
                description=clean_description(words.description),
                tags=[word for word in words.keywords if not _NOISE.match(word) and not _EMAIL.search(word)],
                source="openclipart",
                license=_LICENSES.get(words.license, words.license),
                author=words.author,
            )
        )
    left_out = f"{too_large} of more than {MAX_PIXELS} pixels, {unreadable} unreadable"
    logger.info("Open Clip Art: %d images; left out: %s", len(rows), left_out)
    return rows


def _deduplicated(rows: list[ImageRow]) -> list[ImageRow]:
    kept: list[ImageRow] = []
    seen: set[object] = set()
    for row in rows:
        if not row["title"]:
            continue
        words = (row["title"].casefold(), frozenset(tag.casefold() for tag in row["tags"]))
        # The library keeps some drawings in several folders with other keywords, as copies or links.
        content = hashlib.sha256(Path(row["image"]).read_bytes()).digest()
        if words not in seen and content not in seen:
            kept.append(row)
        seen |= {words, content}
    return kept
