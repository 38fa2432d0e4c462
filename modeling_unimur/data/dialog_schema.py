"""What every reader of dialogues gives: turns of texts and images, and a report of what is missing; and their loop."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

# Items that a report names of each kind of loss.
_NAMED = 5


@dataclass(frozen=True)
class Turn:
    """What one speaker says at once: `elements` are `("text", words)` and `("image", image_id)` in their order."""

    speaker: str
    elements: tuple[tuple[str, str], ...]

    @property
    def image_ids(self) -> list[str]:
        """Ids of the images of the turn."""
        return [value for kind, value in self.elements if kind == "image"]

    def message(self, role: str, images: Mapping[str, str]) -> dict:
        """Convert the turn to a chat message of a role; an image that is not in `images`, image id to file, is left
        out."""
        content: list[dict] = []
        for kind, value in self.elements:
            if kind == "text":
                content.append({"type": "text", "text": value})
            elif value in images:
                content.append({"type": "image", "image": images[value]})
        return {"role": role, "content": content}


@dataclass(frozen=True)
class Dialog:
    """One dialogue; negatives are candidates beside the right ones, where a set gives them."""

    dialog_id: str
    turns: tuple[Turn, ...]
    negative_texts: tuple[str, ...] = ()
    negative_images: tuple[str, ...] = ()


@dataclass
class ReadReport:
    """Counts of what was read from a set, compared with the published counts.

    Args:
        source: the path as it was given.
        published: name of a count -> its value in the paper or on the set's page; empty where it is no whole split.
        found: the same names -> what lies here.
        lost: reason -> number of items that were skipped or lack something.
        examples: reason -> a few of those items.
    """

    source: str
    published: Mapping[str, int] = field(default_factory=dict)
    found: Counter = field(default_factory=Counter)
    lost: Counter = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def lose(self, reason: str, item: str) -> None:
        """Count one item that was skipped or that lacks something."""
        self.lost[reason] += 1
        named = self.examples.setdefault(reason, [])
        if len(named) < _NAMED:
            named.append(item)

    def problems(self) -> list[str]:
        """Return the report as one line if something is lost or a published count is not met, else nothing."""
        is_complete = not self.lost and all(self.found[name] == count for name, count in self.published.items())
        return [] if is_complete else [self.describe()]

    def describe(self) -> str:
        """Return the report as one line."""
        parts = []
        for name, count in self.found.items():
            wanted = self.published.get(name)
            differs = wanted is not None and wanted != count
            parts.append(f"{count:,} {name}" + (f" of {wanted:,} published" if differs else ""))
        text = f"{self.source}: {', '.join(parts) or 'nothing read'}"
        for reason, count in self.lost.items():
            text += f"; {count:,} x {reason}"
            if reason in self.examples:
                text += f" (such as {', '.join(self.examples[reason])})"
        return text


class PublishedSet:
    """One split of a published set, read as often as it is iterated, up to `limit` dialogues. Bad records are skipped,
    counted and reported. A reader names its class variables and writes `records` and `images_of`.

    Attributes:
        report (`ReadReport`): report of the last whole iteration.
        files (`list[Path]`): what is read.

    Raises:
        ValueError: an unknown split.
    """

    title: ClassVar[str]
    """Name of the set."""
    origin: ClassVar[str]
    """Where it comes from, as a sentence."""
    published: ClassVar[Mapping[str, Mapping[str, int]]]
    """Split -> what a report counts -> its published value."""
    item: ClassVar[str] = "dialogue"
    items: ClassVar[str] = "dialogues"

    files: list[Path]

    def __init__(self, folder: str | os.PathLike, split: str, limit: int | None = None):
        self.require_split(split, self.published)
        self.folder, self.split, self.limit = Path(folder).expanduser(), split, limit
        self.report = self._new_report()

    @classmethod
    def require_split(cls, split: str, known: Iterable[str]) -> None:
        """Raise a ValueError if the split is unknown."""
        if split not in known:
            raise ValueError(f"{cls.title} has no split {split!r}: choose from {', '.join(cls.published)}.")

    def records(self, report: ReadReport) -> Iterator[tuple[str, Callable[[], Any]]]:
        """Yield a name and a function for each record. The function parses the record and raises a KeyError,
        IndexError, TypeError or ValueError if the record is bad."""
        raise NotImplementedError

    def images_of(self, item: Any) -> Iterable[tuple[str, bool]]:
        """Return the names of the images of an item, and whether their files exist."""
        raise NotImplementedError

    def note(self, item: Any, report: ReadReport) -> None:
        """Count anything else that the report of this set contains."""

    def __iter__(self) -> Iterator[Any]:
        report, seen = self._new_report(), set()
        for name, read in self.records(report):
            if self.limit is not None and report.found[self.items] >= self.limit:
                break
            try:
                item = read()
            except (KeyError, IndexError, TypeError, ValueError) as error:
                report.lose(f"malformed {self.item} ({error})", name)
                continue
            report.found[self.items] += 1
            for image, is_there in self.images_of(item):
                if image in seen:
                    continue
                seen.add(image)
                if is_there:
                    report.found["images"] += 1
                else:
                    report.lose("image is missing", image)
            self.note(item, report)
            yield item
        self.report = report

    def first_there(self, places: Iterable[Path]) -> Path:
        """Return the first file or folder that exists.

        Raises:
            FileNotFoundError: none is; the message names them.
        """
        places = list(places)
        found = next((place for place in places if place.exists()), None)
        if found is None:
            tried = ", ".join(map(str, places))
            raise FileNotFoundError(
                f"{self.title}'s split {self.split} is not there; looked for {tried}. {self.origin}"
            )
        return found

    def _new_report(self) -> ReadReport:
        return ReadReport(str(self.folder), {} if self.limit else self.published[self.split])
