"""Text of the contact sheet: choice of a font that can draw it, and line breaks."""

from __future__ import annotations

import unicodedata
from functools import lru_cache

from PIL import ImageFont

Font = ImageFont.FreeTypeFont

# Fonts of common systems with many characters, by name. They follow Pillow's own font, which has only Latin ones.
WIDE_FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial Unicode.ttf", "arial.ttf", "segoeui.ttf")


@lru_cache
def _fonts(size: int) -> tuple[Font, ...]:
    fonts = [ImageFont.load_default(size=size)]
    for name in WIDE_FONTS:
        try:
            fonts.append(ImageFont.truetype(name, size))
        except OSError:
            continue
    return tuple(fonts)


@lru_cache(maxsize=8192)
def _has_glyph(font: Font, character: str) -> bool:
    if character.isspace():
        return True
    missing = font.getmask("\U0010fffe")
    drawn = font.getmask(character)
    return drawn.size != missing.size or bytes(drawn) != bytes(missing)


def drawable(text: str, size: int) -> tuple[str, Font]:
    """Returns the text on one line and the font that can draw most of it.

    Characters that this font cannot draw, such as emoji, are removed.
    """
    text = " ".join(unicodedata.normalize("NFC", text).split())
    text = "".join(character for character in text if unicodedata.category(character) not in {"Cc", "Cf", "Cs", "Co"})
    font = max(_fonts(size), key=lambda font: sum(_has_glyph(font, character) for character in text))
    kept = "".join(character for character in text if _has_glyph(font, character))
    return " ".join(kept.split()), font


def wrap(text: str, size: int, width: int, max_lines: int | None = None) -> tuple[list[str], Font]:
    """Breaks a text into lines of at most `width` pixels. If it needs more than `max_lines`, it ends in "..."."""
    text, font = drawable(text, size)

    def fits(line: str) -> bool:
        return font.getlength(line) <= width

    lines: list[str] = []
    line = ""
    for word in text.split(" "):
        if fits(joined := f"{line} {word}".strip()):
            line = joined
            continue
        if line:
            lines.append(line)
        line = word
        while len(line) > 1 and not fits(line):
            end = next(end for end in range(len(line) - 1, 0, -1) if end == 1 or fits(line[:end]))
            lines.append(line[:end])
            line = line[end:]
    if line:
        lines.append(line)
    if max_lines is not None and len(lines) > max_lines:
        last = lines[max_lines - 1]
        # Three dots are used because the font may lack the ellipsis character.
        while last and not fits(last + "..."):
            last = last[:-1]
        lines[max_lines - 1 :] = [last.rstrip() + "..."]
    return lines, font
