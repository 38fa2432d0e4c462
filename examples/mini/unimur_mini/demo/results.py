"""Results of a demo run, which the terminal, the page and the contact sheet show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from modeling_unimur.cli.gallery import GalleryImage, RankedImage, RankedReply

# Names and credit lines that the collections require. Other collections are shown by their own name.
SOURCE_NAMES = {
    "openmoji": "OpenMoji",
    "openclipart": "Open Clip Art Library",
    "stamps": "Tux Paint stamps",
    "own": "own images",
}
SOURCE_CREDITS = {
    "openmoji": "All emojis designed by OpenMoji, the open-source emoji and icon project. License: CC BY-SA 4.0",
    "stamps": "Made by the Tux Paint contributors",
}


def credit(image: GalleryImage) -> str:
    """Returns source, author and licence in one line, without unknown parts."""
    name = SOURCE_NAMES.get(image.source, image.source)
    # Avoid repetitions such as "OpenMoji · OpenMoji project".
    author = "" if name and name.lower() in image.author.lower() else image.author
    parts = [name, author, image.license]
    return " · ".join(dict.fromkeys(part for part in parts if part))


@dataclass(frozen=True)
class Turn:
    """One message of a conversation: its speaker, and its texts and images in their order."""

    role: str
    parts: tuple[str | GalleryImage, ...]


@dataclass(frozen=True)
class AnsweredDialogue:
    """A conversation and the items that were retrieved for its next turn, best first."""

    title: str
    turns: tuple[Turn, ...]
    replies: tuple[RankedReply, ...]
    images: tuple[RankedImage, ...]


@dataclass(frozen=True)
class DemoResults:
    """Everything that the page and the contact sheet show.

    `source_counts` holds the number of images of each (source, licence) in the gallery. `note` says how the
    conversations were chosen, if that is known.
    """

    model: str
    dialogues: tuple[AnsweredDialogue, ...]
    gallery_size: int
    pool_size: int
    seed: int
    versions: dict[str, str]
    source_counts: dict[tuple[str, str], int]
    note: str = ""

    def shown_images(self) -> Iterator[GalleryImage]:
        """Yields every image that is shown anywhere, each path once."""
        seen = set()
        for dialogue in self.dialogues:
            context = [part for turn in dialogue.turns for part in turn.parts if isinstance(part, GalleryImage)]
            for image in [*context, *(ranked.image for ranked in dialogue.images)]:
                if image.path not in seen:
                    seen.add(image.path)
                    yield image

    def summary(self) -> str:
        """Returns a line with the numbers of images and replies that were searched."""
        return f"{len(self.dialogues)} dialogues, {self.gallery_size:,} images, {self.pool_size:,} replies"

    def credits(self) -> list[str]:
        """Returns a line for each source of images: its name, number of images, licence and attribution."""
        lines = []
        for (source, license_name), number in sorted(self.source_counts.items()):
            name = SOURCE_NAMES.get(source, source or "unnamed source")
            line = f"{name}: {number:,} images" + (f", {license_name}" if license_name else "")
            lines.append(line + (f". {SOURCE_CREDITS[source]}" if source in SOURCE_CREDITS else ""))
        return lines


def count_sources(images: list[GalleryImage]) -> dict[tuple[str, str], int]:
    """Counts the images of each (source, licence)."""
    return dict(Counter((image.source, image.license) for image in images))
