"""Results of a demo run: plain records that the terminal, the page and the contact sheet show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from modeling_unimur.cli.gallery import GalleryImage, RankedImage, RankedReply

# Names and credit lines as the collections ask for them; a collection that is not listed is shown by its own name.
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
    """Source, author and licence in one line, without the parts that are not known."""
    name = SOURCE_NAMES.get(image.source, image.source)
    # "OpenMoji · OpenMoji project" would say it twice.
    author = "" if name and name.lower() in image.author.lower() else image.author
    parts = [name, author, image.license]
    return " · ".join(dict.fromkeys(part for part in parts if part))


@dataclass(frozen=True)
class Turn:
    """One message of a conversation: who speaks, and the texts and images in their order."""

    role: str
    parts: tuple[str | GalleryImage, ...]


@dataclass(frozen=True)
class AnsweredDialogue:
    """A conversation and what was retrieved for its next turn, best first."""

    title: str
    turns: tuple[Turn, ...]
    replies: tuple[RankedReply, ...]
    images: tuple[RankedImage, ...]


@dataclass(frozen=True)
class DemoResults:
    """Everything the page and the contact sheet show.

    `source_counts` holds one entry for each (source, licence) of the gallery with its number of images; `note` says
    how the conversations were chosen, where that is known.
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
        """Every image that appears anywhere, each path once."""
        seen = set()
        for dialogue in self.dialogues:
            context = [part for turn in dialogue.turns for part in turn.parts if isinstance(part, GalleryImage)]
            for image in [*context, *(ranked.image for ranked in dialogue.images)]:
                if image.path not in seen:
                    seen.add(image.path)
                    yield image

    def summary(self) -> str:
        """One line with the sizes of what was searched."""
        return f"{len(self.dialogues)} dialogues, {self.gallery_size:,} images, {self.pool_size:,} replies"

    def credits(self) -> list[str]:
        """One line for each source of images: name, number, licence, attribution."""
        lines = []
        for (source, license_name), number in sorted(self.source_counts.items()):
            name = SOURCE_NAMES.get(source, source or "unnamed source")
            line = f"{name}: {number:,} images" + (f", {license_name}" if license_name else "")
            lines.append(line + (f". {SOURCE_CREDITS[source]}" if source in SOURCE_CREDITS else ""))
        return lines


def count_sources(images: list[GalleryImage]) -> dict[tuple[str, str], int]:
    """Number of images for each (source, licence)."""
    return dict(Counter((image.source, image.license) for image in images))
