"""Text for the contact sheet: a font that can draw it, and lines that fit a width."""

from __future__ import annotations

import unicodedata
from functools import lru_cache

from PIL import ImageFont

Font = ImageFont.FreeTypeFont

# Pillow's own font first (it is everywhere, Latin only), then wide fonts of the common systems, found by name.
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
    """The text on one line without what no font here can draw (emoji, say), and the font that draws most of it."""
    text = " ".join(unicodedata.normalize("NFC", text).split())
    text = "".join(character for character in text if unicodedata.category(character) not in {"Cc", "Cf", "Cs", "Co"})
    font = max(_fonts(size), key=lambda font: sum(_has_glyph(font, character) for character in text))
    kept = "".join(character for character in text if _has_glyph(font, character))
    return " ".join(kept.split()), font


def wrap(text: str, size: int, width: int, max_lines: int | None = None) -> tuple[list[str], Font]:
    """Break a text into lines of at most `width` pixels; what does not fit `max_lines` ends in an ellipsis."""
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
        # Three dots: the font that draws a text need not have the one-character ellipsis.
        while last and not fits(last + "..."):
            last = last[:-1]
        lines[max_lines - 1 :] = [last.rstrip() + "..."]
    return lines, font
