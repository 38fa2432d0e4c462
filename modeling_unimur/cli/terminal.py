"""Printing conversations and rankings to a terminal."""

from __future__ import annotations

import os
import shutil
import textwrap
import unicodedata
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import TextIO

from .gallery import GalleryImage, RankedImage, RankedReply, bar_fractions

BAR_CELLS = 10
_BOLD, DIM, _BLUE, _RESET = "\033[1m", "\033[2m", "\033[34m", "\033[0m"


class Terminal:
    """Writes to a stream, in colour where the stream is a terminal that wants it (https://no-color.org)."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        is_terminal = hasattr(stream, "isatty") and stream.isatty()
        self.colour = is_terminal and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
        self.width = max(40, min(100, shutil.get_terminal_size((100, 24)).columns))
        blocks = "█░─"
        try:
            blocks.encode(getattr(stream, "encoding", None) or "utf-8")
        except UnicodeEncodeError:
            blocks = "#.-"
        self.full, self.empty, self.rule = blocks

    def write(self, text: str = "", style: str = "") -> None:
        """One line, without control characters: what a file says must not steer the terminal."""
        text = "".join(character for character in text if unicodedata.category(character) != "Cc")
        print(f"{style}{text}{_RESET}" if style and self.colour else text, file=self.stream, flush=True)

    def wrapped(self, text: str, label: str) -> None:
        """A paragraph whose lines stand to the right of its label."""
        label = f"  {label:<11}"
        lines = textwrap.wrap(text, self.width, initial_indent=label, subsequent_indent=" " * len(label))
        for line in lines or [label.rstrip()]:
            self.write(line)

    def heading(self, text: str) -> None:
        """A line that separates what follows from what stands above."""
        self.write()
        self.write(f"{self.rule * 2} {text} ".ljust(self.width, self.rule), _BOLD)

    def _bar(self, fraction: float) -> str:
        cells = round(fraction * BAR_CELLS)
        return self.full * cells + self.empty * (BAR_CELLS - cells)

    def replies(self, replies: Sequence[RankedReply]) -> None:
        """Ranked texts with their scores."""
        fractions = bar_fractions([reply.score for reply in replies])
        for place, (reply, fraction) in enumerate(zip(replies, fractions, strict=True), start=1):
            self.write(
                f"  {place}. {reply.score:6.3f} {self._bar(fraction)}  {reply.text}", "" if place > 1 else _BOLD
            )

    def images(
        self,
        images: Sequence[RankedImage],
        *,
        captions: Callable[[GalleryImage], str] = attrgetter("title"),
        with_paths: bool = False,
    ) -> None:
        """Ranked images with their scores and captions, and perhaps their paths."""
        fractions = bar_fractions([ranked.score for ranked in images])
        for place, (ranked, fraction) in enumerate(zip(images, fractions, strict=True), start=1):
            line = f"  {place}. {ranked.score:6.3f} {self._bar(fraction)}  {captions(ranked.image)}"
            self.write(line, "" if place > 1 else _BLUE)
            if with_paths:
                self.write(f"{' ' * (BAR_CELLS + 14)}{ranked.image.path}", DIM)
