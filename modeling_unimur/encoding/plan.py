"""Which items of a source have to be encoded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..data.json_lines import json_line
from .items import BadItem, Item
from .manifest import Manifest


class Plan:
    """Chunks of the items that have to be encoded, from a listing; the same ones in every process.

    Args:
        listing: all items.
        manifest: what is known.
        source: of the listing, as the manifest calls it.
        size: items a chunk.
        bad: file for what cannot be encoded; made when there is something.

    After the last chunk `listed` and `unchanged` count items, and `hiding` are those behind which others may lie.
    """

    def __init__(self, listing: Iterator[Item | BadItem], manifest: Manifest, source: str, size: int, bad: Path):
        self.listing, self.manifest, self.source, self.size, self.bad = listing, manifest, source, size, bad
        self.listed = self.unchanged = 0
        self.hiding: list[BadItem] = []
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
        answers = self.manifest.unknown([item for _, item in part], self.source)
        for (_, item), answer in zip(part, answers, strict=True):
            if isinstance(answer, str):
                self._refuse(BadItem(item.id, answer))
        self.unchanged += answers.count(False)
        return [entry for entry, answer in zip(part, answers, strict=True) if answer is True]

    def _refuse(self, item: BadItem) -> None:
        if item.hides is not None:
            self.hiding.append(item)
        with open(self.bad, "ab") as file:
            file.write(json_line({"item": item.item, "reason": item.reason}))


__all__ = ["Plan"]
