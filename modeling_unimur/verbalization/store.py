"""Words of images on disk: one file of JSON lines, to which a run adds and from which the next one goes on."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from pathlib import Path

from ..data.json_lines import append_json_lines, scan_json_lines
from ..data.shards import put_aside

logger = logging.getLogger(__name__)


def word_key(picture: bytes, caption: str) -> str:
    """What an image's words hang on, besides the verbalizer: its bytes and its caption."""
    return hashlib.sha256(hashlib.sha256(picture).digest() + caption.encode("utf-8", "surrogatepass")).hexdigest()[:32]


class WordStore:
    """Words by key, for one verbalizer.

    A run that is killed leaves at most one broken line at the end. Each line has a checksum of its words, their key
    and the verbalizer. Lines that do not agree with theirs are passed over and reported; a file without any line of
    this verbalizer is renamed. Lines of earlier versions have no checksum, and are read unless the file names another
    verbalizer.

    Args:
        folder: where the files are.
        verbalizer: what tells one verbalizer from another, such as its model and its prompt.
    """

    def __init__(self, folder: str | os.PathLike, verbalizer: str):
        self._verbalizer = verbalizer
        name = hashlib.sha256(verbalizer.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        self.path = Path(folder) / f"words-{name}.jsonl"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._words: dict[str, str] = {}
        if self.path.is_file():
            self._read()
        if not self.path.is_file():
            append_json_lines(self.path, [{"verbalizer": verbalizer}])

    def _read(self) -> None:
        """Reads the lines that are whole and belong here; a file that has none, and does not name this verbalizer, is
        put aside."""
        broken, named = 0, None
        try:
            with self.path.open("rb") as file:
                for line in scan_json_lines(file, str(self.path)):
                    row = line.value if isinstance(line.value, dict) else {}
                    key, words = row.get("key"), row.get("words")
                    if isinstance(row.get("verbalizer"), str):
                        named = row["verbalizer"]
                    elif isinstance(key, str) and isinstance(words, str) and self._is_own(row, named):
                        self._words[key] = words
                    else:
                        broken += 1
        except ValueError as error:
            put_aside(self.path, error)
            return
        if not self._words and named != self._verbalizer:
            put_aside(self.path, "it holds no words of this verbalizer")
        elif broken:
            logger.warning("%s: %d lines hold no words; those images are put into words again.", self.path, broken)

    def _is_own(self, row: dict, named: str | None) -> bool:
        if "sum" not in row:
            return named in (None, self._verbalizer)
        return row["sum"] == self._sum(row["key"], row["words"])

    def _sum(self, key: str, words: str) -> str:
        text = json.dumps([self._verbalizer, key, words])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def __contains__(self, key: str) -> bool:
        return key in self._words

    def __getitem__(self, key: str) -> str:
        return self._words[key]

    def __len__(self) -> int:
        return len(self._words)

    def add(self, words: dict[str, str]) -> None:
        """Writes words by key; they are on the disk when this returns."""
        lines = ({"key": key, "words": text, "sum": self._sum(key, text)} for key, text in words.items())
        append_json_lines(self.path, lines)
        self._words.update(words)


__all__ = ["WordStore", "word_key"]
