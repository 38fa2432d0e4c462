"""The contact sheet of the demo: one image with a row for each dialogue, its top reply and its ranked images."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageDraw, ImageOps

from modeling_unimur.cli.gallery import GalleryImage, RankedImage, bar_fractions
from modeling_unimur.image_loading import load_image

from .results import AnsweredDialogue, DemoResults, Turn, credit
from .sheet_text import wrap

# Layout in pixels for a sheet of WIDTH; the text sizes are chosen to be read on a screen that shows the whole width.
WIDTH = 1600
MARGIN = 44
PADDING = 26
GAP = 20
CHAT_WIDTH = 580
THUMBNAIL = 195
CONTEXT_IMAGE = 120
TITLE, HEADING, BODY, SMALL, TINY = 46, 27, 21, 17, 14

GROUND, CARD, INK, SOFT, LINE = "#f4f3ef", "#ffffff", "#1d1f23", "#666b75", "#e3e1da"
ACCENT, USER, OTHER, ANSWER, TRACK = "#3f51b5", "#3f51b5", "#eeede8", "#e8ecfb", "#e9e7e0"


@dataclass
class _Drawing:
    """Drawing operations kept until the height of their row is known."""

    operations: list = field(default_factory=list)
    height: int = 0

    def add(self, operation, bottom: int) -> None:
        self.operations.append(operation)
        self.height = max(self.height, bottom)


def _text(
    drawing: _Drawing, x: int, y: int, text: str, size: int, width: int, fill: str, max_lines: int | None
) -> int:
    """Add wrapped text at (x, y) and return the y below it."""
    lines, font = wrap(text, size, width, max_lines)
    step = round(size * 1.32)
    for number, line in enumerate(lines):
        top = y + number * step

        def operation(canvas, draw, x0, y0, line=line, top=top):
            draw.text((x0 + x, y0 + top), line, font=font, fill=fill)

        drawing.add(operation, top + step)
    return y + len(lines) * step


def _box(
    drawing: _Drawing, x: int, y: int, width: int, height: int, fill: str, outline: str | None, radius: int
) -> None:
    def operation(canvas, draw, x0, y0):
        corners = (x0 + x, y0 + y, x0 + x + width, y0 + y + height)
        draw.rounded_rectangle(corners, radius=radius, fill=fill, outline=outline, width=1 if outline else 0)

    drawing.add(operation, y + height)


def _image(drawing: _Drawing, x: int, y: int, side: int, image: GalleryImage, outline: str) -> None:
    _box(drawing, x, y, side, side, "#ffffff", outline, 12)
    inner = side - 16

    def operation(canvas, draw, x0, y0):
        fitted = ImageOps.contain(load_image(image.path), (inner, inner), Image.Resampling.LANCZOS)
        canvas.paste(fitted, (x0 + x + (side - fitted.width) // 2, y0 + y + (side - fitted.height) // 2))

    drawing.add(operation, y + side)


def _bubble(drawing: _Drawing, y: int, turn: Turn) -> int:
    is_user = turn.role == "user"
    ink = "#ffffff" if is_user else INK
    inner = round(CHAT_WIDTH * 0.86) - 32
    content = _Drawing()
    width, bottom = 0, 12
    for part in turn.parts:
        if isinstance(part, GalleryImage):
            _image(content, 16, bottom + 3, CONTEXT_IMAGE, part, LINE)
            width, bottom = max(width, CONTEXT_IMAGE), bottom + CONTEXT_IMAGE + 9
        else:
            lines, font = wrap(part, BODY, inner)
            width = max([width, *(round(font.getlength(line)) for line in lines)])
            bottom = _text(content, 16, bottom, part, BODY, inner, ink, None)
    width, height = width + 32, bottom + 11
    x = CHAT_WIDTH - width if is_user else 0
    _box(drawing, x, y, width, height, USER if is_user else OTHER, None, 17)
    for operation in content.operations:

        def shifted(canvas, draw, x0, y0, operation=operation):
            operation(canvas, draw, x0 + x, y0 + y)

        drawing.add(shifted, y + height)
    return y + height + 9


def _ranked_image(drawing: _Drawing, x: int, y: int, ranked: RankedImage, fraction: float, first: bool) -> None:
    _image(drawing, x, y, THUMBNAIL, ranked.image, ACCENT if first else LINE)
    bottom = _text(drawing, x, y + THUMBNAIL + 7, ranked.image.title, SMALL, THUMBNAIL, INK, 2)
    _box(drawing, x, bottom + 8, THUMBNAIL - 62, 6, TRACK, None, 3)
    if fraction > 0:
        _box(drawing, x, bottom + 8, max(6, round((THUMBNAIL - 62) * fraction)), 6, ACCENT, None, 3)
    _text(drawing, x + THUMBNAIL - 52, bottom, f"{ranked.score:.3f}", SMALL, 60, SOFT, 1)
    _text(drawing, x, bottom + 25, credit(ranked.image), TINY, THUMBNAIL, SOFT, 2)


def _row(number: int, dialogue: AnsweredDialogue, width: int) -> _Drawing:
    drawing = _Drawing()
    y = _text(drawing, 0, 0, f"{number}  {dialogue.title}", HEADING, width, INK, 1) + 12
    top = y
    for turn in dialogue.turns:
        y = _bubble(drawing, y, turn)
    x = CHAT_WIDTH + 2 * GAP
    answer_width = width - x
    if dialogue.replies:
        best = dialogue.replies[0]
        lines, _ = wrap(best.text, BODY + 2, answer_width - 110, 3)
        height = len(lines) * round((BODY + 2) * 1.32) + 24
        _box(drawing, x, top, answer_width, height, ANSWER, "#b9c3ee", 15)
        _text(drawing, x + 17, top + 11, best.text, BODY + 2, answer_width - 110, INK, 3)
        _text(drawing, x + answer_width - 72, top + 14, f"{best.score:.3f}", SMALL, 70, SOFT, 1)
        top += height + 16
    fractions = bar_fractions([ranked.score for ranked in dialogue.images])
    columns = max(1, (answer_width + GAP) // (THUMBNAIL + GAP))
    for place, (ranked, fraction) in enumerate(zip(dialogue.images, fractions, strict=True)):
        if place and place % columns == 0:
            top = drawing.height + GAP
        _ranked_image(drawing, x + place % columns * (THUMBNAIL + GAP), top, ranked, fraction, place == 0)
    return drawing


def draw_contact_sheet(results: DemoResults, width: int = WIDTH) -> Image.Image:
    """Draw the sheet (RGB, `width` pixels wide, as high as its rows need).

    Raises:
        ValueError: if `width` leaves no room for one image beside the conversation.
        FileNotFoundError, ValueError: if a shown image is missing or cannot be read.
    """
    inner = width - 2 * MARGIN - 2 * PADDING
    if inner < CHAT_WIDTH + 2 * GAP + THUMBNAIL:
        least = CHAT_WIDTH + 2 * GAP + THUMBNAIL + 2 * MARGIN + 2 * PADDING
        raise ValueError(f"the contact sheet needs a width of at least {least} pixels, not {width}")
    header, footer = _Drawing(), _Drawing()
    y = _text(header, 0, 0, "A conversation in, words and an image out", TITLE, width - 2 * MARGIN, INK, 1)
    _text(header, 0, y + 2, f"{results.model}: {results.summary()}", BODY, width - 2 * MARGIN, SOFT, 1)
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    y = 0
    about = f"Model {results.model}; seed {results.seed}; {versions}. Scores of coherent replies."
    for line in [about, *results.credits()]:
        y = _text(footer, 0, y, line, SMALL, width - 2 * MARGIN, SOFT, None)
    rows = [_row(number, dialogue, inner) for number, dialogue in enumerate(results.dialogues, start=1)]

    height = MARGIN + header.height + 28 + sum(row.height + 2 * PADDING + GAP for row in rows) + footer.height + MARGIN
    canvas = Image.new("RGB", (width, height), GROUND)
    draw = ImageDraw.Draw(canvas)
    y = MARGIN
    for operation in header.operations:
        operation(canvas, draw, MARGIN, y)
    y += header.height + 28
    for row in rows:
        corners = (MARGIN, y, width - MARGIN, y + row.height + 2 * PADDING)
        draw.rounded_rectangle(corners, radius=18, fill=CARD, outline=LINE)
        for operation in row.operations:
            operation(canvas, draw, MARGIN + PADDING, y + PADDING)
        y += row.height + 2 * PADDING + GAP
    for operation in footer.operations:
        operation(canvas, draw, MARGIN, y)
    return canvas


def write_contact_sheet(results: DemoResults, folder: Path) -> Path:
    """Write contact_sheet.png into `folder` and return its path."""
    path = folder / "contact_sheet.png"
    draw_contact_sheet(results).save(path, optimize=True)
    return path
