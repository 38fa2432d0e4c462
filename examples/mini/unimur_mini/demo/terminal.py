"""Printing the demo's conversations to a terminal."""

from __future__ import annotations

from modeling_unimur.cli.gallery import GalleryImage
from modeling_unimur.cli.terminal import DIM, Terminal

from .results import SOURCE_NAMES, AnsweredDialogue, Turn


class DemoTerminal(Terminal):
    """A terminal that names the collections of images."""

    def caption(self, image: GalleryImage) -> str:
        """Title and source."""
        return image.title + (f"  ({SOURCE_NAMES.get(image.source, image.source)})" if image.source else "")

    def turn(self, turn: Turn) -> None:
        """One message: its texts, and its images by title."""
        parts = [f"[image: {part.title}]" if isinstance(part, GalleryImage) else part for part in turn.parts]
        self.wrapped(" ".join(parts), turn.role)

    def dialogue(self, number: int, dialogue: AnsweredDialogue) -> None:
        """A conversation and everything that was retrieved for it."""
        self.heading(f"{number}. {dialogue.title}")
        for turn in dialogue.turns:
            self.turn(turn)
        self.write("  Replies", DIM)
        self.replies(dialogue.replies)
        self.write("  Images", DIM)
        self.images(dialogue.images)
