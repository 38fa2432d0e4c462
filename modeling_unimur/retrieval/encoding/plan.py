"""Which items of a source have to be encoded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ...data.json_lines import json_line
from .items import BadItem, Item
from .manifest import Manifest


class Plan:
    """Chunks of the items that have to be encoded, from a listing; the same ones in every process.

    Args:
        listing: all items.
        manifest: what is known.
        size: items a chunk.
        bad: file for what cannot be encoded; made when there is something.
    """

    def __init__(self, listing: Iterator[Item | BadItem], manifest: Manifest, size: int, bad: Path):
        self.listing, self.manifest, self.size, self.bad = listing, manifest, size, bad
        self.listed = self.unchanged = 0
        bad.unlink(missing_ok=True)

    def __iter__(self) -> Iterator[list[tuple[int, Item]]]:
        waiting: list[tuple[int, Item]] = []
        part: list[tuple[int, Item]] = []
        for place, item in enumerate(self.listing):
            if isinstance(item, BadItem):
                self._refuse(item)
                continue
            self.listed += 1
            part.append((place, item))
            if len(part) == self.size:
                waiting += self._unknown(part)
                part = []
            while len(waiting) >= self.size:
                yield waiting[: self.size]
                waiting = waiting[self.size :]
        waiting += self._unknown(part)
        for start in range(0, len(waiting), self.size):
            yield waiting[start : start + self.size]

    def _unknown(self, part: list[tuple[int, Item]]) -> list[tuple[int, Item]]:
        if not part:
            return []
        todo, again = self.manifest.unknown([item for _, item in part])
        for (_, item), twice in zip(part, again, strict=True):
            if twice:
                self._refuse(BadItem(item.id, f"the id of an earlier {item.kind}: the first one counts"))
        self.unchanged += len(part) - sum(todo) - sum(again)
        return [entry for entry, wanted in zip(part, todo, strict=True) if wanted]

    def _refuse(self, item: BadItem) -> None:
        with open(self.bad, "ab") as file:
            file.write(bad_line(item.item, item.reason))


def bad_line(item: str, reason: str) -> bytes:
    """A line of the file of what could not be encoded."""
    return json_line({"item": item, "reason": reason})


__all__ = ["Plan", "bad_line"]
