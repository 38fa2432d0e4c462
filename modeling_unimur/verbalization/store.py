"""Words of pictures on disk: one file of JSON lines, to which a run adds and from which the next one goes on."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

from ..data.json_lines import append_json_lines, scan_json_lines

logger = logging.getLogger(__name__)


def word_key(picture: bytes, caption: str) -> str:
    """What a picture's words hang on, besides the verbalizer: its bytes and its caption."""
    return hashlib.sha256(hashlib.sha256(picture).digest() + caption.encode("utf-8", "surrogatepass")).hexdigest()[:32]


class WordStore:
    """Words by key, for one verbalizer.

    A run that is killed leaves at most one broken line at the end, which the next one passes over and writes again.

    Args:
        folder: where the files are.
        verbalizer: what tells one verbalizer from another, such as its model and its prompt.
    """

    def __init__(self, folder: str | os.PathLike, verbalizer: str):
        name = hashlib.sha256(verbalizer.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        self.path = Path(folder) / f"words-{name}.jsonl"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._words: dict[str, str] = {}
        if not self.path.is_file() or not self.path.stat().st_size:
            append_json_lines(self.path, [{"verbalizer": verbalizer}])
        broken = 0
        with self.path.open("rb") as file:
            for line in scan_json_lines(file, str(self.path)):
                row = line.value if isinstance(line.value, dict) else {}
                key, words = row.get("key"), row.get("words")
                if isinstance(key, str) and isinstance(words, str):
                    self._words[key] = words
                else:
                    broken += "verbalizer" not in row
        if broken:
            logger.warning("%s: %d lines hold no words; those pictures are put into words again.", self.path, broken)

    def __contains__(self, key: str) -> bool:
        return key in self._words

    def __getitem__(self, key: str) -> str:
        return self._words[key]

    def __len__(self) -> int:
        return len(self._words)

    def add(self, words: dict[str, str]) -> None:
        """Writes words by key; they are on the disk when this returns."""
        append_json_lines(self.path, ({"key": key, "words": text} for key, text in words.items()))
        self._words.update(words)


__all__ = ["WordStore", "word_key"]
