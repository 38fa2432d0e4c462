"""What every reader of dialogues gives: turns of texts and images, and a report of what is missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

# Items that a report names of each kind of loss.
_NAMED = 5


@dataclass(frozen=True)
class Turn:
    """What one speaker says at once.

    Args:
        speaker: who.
        elements: `("text", words)` and `("image", image_id)` in their order.
    """

    speaker: str
    elements: tuple[tuple[str, str], ...]

    @property
    def text(self) -> str:
        """Its words."""
        return " ".join(value for kind, value in self.elements if kind == "text")

    @property
    def image_ids(self) -> list[str]:
        """Its images."""
        return [value for kind, value in self.elements if kind == "image"]

    def values(self, kind: str) -> list[str]:
        """Its texts or the ids of its images, one per element."""
        return [value for found, value in self.elements if found == kind]

    def message(self, role: str, pictures: Mapping[str, str]) -> dict:
        """The turn as a chat message.

        Args:
            role: `user` or `assistant`.
            pictures: image id to file; an image that is not in it is left out.
        """
        content: list[dict] = []
        for kind, value in self.elements:
            if kind == "text":
                content.append({"type": "text", "text": value})
            elif value in pictures:
                content.append({"type": "image", "image": pictures[value]})
        return {"role": role, "content": content}


@dataclass(frozen=True)
class Dialog:
    """One dialogue.

    Args:
        dialog_id: of the dialogue.
        turns: in order.
        negative_texts, negative_images: candidates beside the right ones, where a set gives them.
    """

    dialog_id: str
    turns: tuple[Turn, ...]
    negative_texts: tuple[str, ...] = ()
    negative_images: tuple[str, ...] = ()


@dataclass
class ReadReport:
    """What was found of a set, beside what was published.

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
        """Counts one item."""
        self.lost[reason] += 1
        named = self.examples.setdefault(reason, [])
        if len(named) < _NAMED:
            named.append(item)

    @property
    def complete(self) -> bool:
        """Whether nothing is lost and every published count is met."""
        return not self.lost and all(self.found[name] == count for name, count in self.published.items())

    def describe(self) -> str:
        """The report in one line."""
        parts = []
        for name, count in self.found.items():
            wanted = self.published.get(name)
            differs = wanted is not None and wanted != count
            parts.append(f"{count:,} {name}" + (f" of {wanted:,} published" if differs else ""))
        text = f"{self.source}: {', '.join(parts) or 'nothing read'}"
        for reason, count in self.lost.items():
            text += f"; {count:,} x {reason} (such as {', '.join(self.examples[reason])})"
        return text


__all__ = ["Dialog", "ReadReport", "Turn"]
