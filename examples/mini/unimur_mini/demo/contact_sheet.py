"""The contact sheet of the demo: an image with a row for each dialogue, its top reply and its ranked images."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw, ImageOps

from modeling_unimur.cli.gallery import GalleryImage, RankedImage, bar_fractions
from modeling_unimur.image_loading import load_image

from .results import AnsweredDialogue, DemoResults, Turn, credit
from .sheet_text import wrap

# Layout in pixels for a sheet of WIDTH. The text is readable on a screen that shows the whole width.
WIDTH = 1600
MARGIN, PADDING, GAP = 44, 26, 20
CHAT_WIDTH = 580
THUMBNAIL, CONTEXT_IMAGE = 195, 120
TITLE, HEADING, BODY, SMALL, TINY = 46, 27, 21, 17, 14
_INNER = WIDTH - 2 * MARGIN - 2 * PADDING

GROUND, CARD, INK, SOFT, LINE = "#f4f3ef", "#ffffff", "#1d1f23", "#666b75", "#e3e1da"
ACCENT, OTHER, ANSWER, ANSWER_LINE, TRACK = "#3f51b5", "#eeede8", "#e8ecfb", "#b9c3ee", "#e9e7e0"


class _Canvas:
    """An image that grows downwards as content is drawn. `height` is the lower end of the content."""

    def __init__(self, width: int, ground: str):
        self.image, self.ground, self.height = Image.new("RGB", (width, 1000), ground), ground, 0

    def _pen(self, bottom: int) -> ImageDraw.ImageDraw:
        self.height = max(self.height, bottom)
        if bottom >= self.image.height:
            grown = Image.new("RGB", (self.image.width, 2 * bottom), self.ground)
            grown.paste(self.image)
            self.image = grown
        return ImageDraw.Draw(self.image)

    def text(self, x: int, y: int, text: str, size: int, width: int, fill: str, max_lines: int | None = 1) -> int:
        """Draws wrapped text and returns the y coordinate below it."""
        lines, font = wrap(text, size, width, max_lines)
        step = round(size * 1.32)
        for line in lines:
            self._pen(y + step).text((x, y), line, font=font, fill=fill)
            y += step
        return y

    def box(self, x: int, y: int, width: int, height: int, fill: str, outline: str | None, radius: int) -> None:
        corners = (x, y, x + width, y + height)
        self._pen(y + height).rounded_rectangle(corners, radius, fill, outline, width=1 if outline else 0)

    def picture(self, x: int, y: int, side: int, image: GalleryImage, outline: str) -> None:
        self.box(x, y, side, side, CARD, outline, 12)
        fitted = ImageOps.contain(load_image(image.path), (side - 16, side - 16), Image.Resampling.LANCZOS)
        self.image.paste(fitted, (x + (side - fitted.width) // 2, y + (side - fitted.height) // 2))

    def paste(self, x: int, y: int, other: _Canvas) -> None:
        self._pen(y + other.height)
        # The lower and right edges of a box are drawn one pixel beyond it.
        self.image.paste(other.image.crop((0, 0, other.image.width, other.height + 1)), (x, y))


def _bubble(row: _Canvas, y: int, turn: Turn) -> int:
    """Draws a turn and returns the y coordinate below it."""
    is_user, most = turn.role == "user", round(CHAT_WIDTH * 0.86) - 32
    width, height = 0, 23
    for part in turn.parts:
        if isinstance(part, GalleryImage):
            width, height = max(width, CONTEXT_IMAGE), height + CONTEXT_IMAGE + 9
        else:
            lines, font = wrap(part, BODY, most)
            width = max([width, *(round(font.getlength(line)) for line in lines)])
            height += len(lines) * round(BODY * 1.32)
    x = CHAT_WIDTH - width - 32 if is_user else 0
    row.box(x, y, width + 32, height, ACCENT if is_user else OTHER, None, 17)
    place = y + 12
    for part in turn.parts:
        if isinstance(part, GalleryImage):
            row.picture(x + 16, place + 3, CONTEXT_IMAGE, part, LINE)
            place += CONTEXT_IMAGE + 9
        else:
            place = row.text(x + 16, place, part, BODY, most, CARD if is_user else INK, None)
    return y + height + 9


def _ranked_image(row: _Canvas, x: int, y: int, ranked: RankedImage, fraction: float, first: bool) -> None:
    row.picture(x, y, THUMBNAIL, ranked.image, ACCENT if first else LINE)
    bottom = row.text(x, y + THUMBNAIL + 7, ranked.image.title, SMALL, THUMBNAIL, INK, 2)
    row.box(x, bottom + 8, THUMBNAIL - 62, 6, TRACK, None, 3)
    if fraction > 0:
        row.box(x, bottom + 8, max(6, round((THUMBNAIL - 62) * fraction)), 6, ACCENT, None, 3)
    row.text(x + THUMBNAIL - 52, bottom, f"{ranked.score:.3f}", SMALL, 60, SOFT)
    row.text(x, bottom + 25, credit(ranked.image), TINY, THUMBNAIL, SOFT, 2)


def _row(number: int, dialogue: AnsweredDialogue) -> _Canvas:
    row = _Canvas(_INNER + 1, CARD)
    y = top = row.text(0, 0, f"{number}  {dialogue.title}", HEADING, _INNER, INK) + 12
    for turn in dialogue.turns:
        y = _bubble(row, y, turn)
    x = CHAT_WIDTH + 2 * GAP
    width = _INNER - x
    for best in dialogue.replies[:1]:
        lines, _ = wrap(best.text, BODY + 2, width - 110, 3)
        height = len(lines) * round((BODY + 2) * 1.32) + 24
        row.box(x, top, width, height, ANSWER, ANSWER_LINE, 15)
        row.text(x + 17, top + 11, best.text, BODY + 2, width - 110, INK, 3)
        row.text(x + width - 72, top + 14, f"{best.score:.3f}", SMALL, 70, SOFT)
        top += height + 16
    fractions = bar_fractions([ranked.score for ranked in dialogue.images])
    for place, (ranked, fraction) in enumerate(zip(dialogue.images, fractions, strict=True)):
        _ranked_image(row, x + place * (THUMBNAIL + GAP), top, ranked, fraction, place == 0)
    return row


def draw_contact_sheet(results: DemoResults) -> Image.Image:
    """Draws the sheet as an RGB image that is `WIDTH` pixels wide. A row has room for four images."""
    sheet, width = _Canvas(WIDTH, GROUND), WIDTH - 2 * MARGIN
    y = sheet.text(MARGIN, MARGIN, "A conversation in, words and an image out", TITLE, width, INK)
    y = sheet.text(MARGIN, y + 2, f"{results.model}: {results.summary()}", BODY, width, SOFT) + 28
    for number, dialogue in enumerate(results.dialogues, start=1):
        row = _row(number, dialogue)
        sheet.box(MARGIN, y, width, row.height + 2 * PADDING, CARD, LINE, 18)
        sheet.paste(MARGIN + PADDING, y + PADDING, row)
        y += row.height + 2 * PADDING + GAP
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    about = f"Model {results.model}; seed {results.seed}; {versions}. Scores of coherent replies."
    for line in [about, *results.credits()]:
        y = sheet.text(MARGIN, y, line, SMALL, width, SOFT, None)
    return sheet.image.crop((0, 0, WIDTH, y + MARGIN))


def write_contact_sheet(results: DemoResults, folder: Path) -> Path:
    """Writes contact_sheet.png into `folder` and returns its path."""
    path = folder / "contact_sheet.png"
    draw_contact_sheet(results).save(path, optimize=True)
    return path
