"""Words of pictures on disk: one file of JSON lines, to which a run adds and from which the next one goes on."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path


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
        name = hashlib.sha256(verbalizer.encode()).hexdigest()[:16]
        self.path = Path(folder) / f"words-{name}.jsonl"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._words: dict[str, str] = {}
        text = self.path.read_text(encoding="utf-8") if self.path.is_file() else ""
        for line in text.splitlines():
            try:
                row = json.loads(line)
                if "key" in row:
                    self._words[row["key"]] = row["words"]
            except (ValueError, KeyError, TypeError):
                continue  # a kill in the middle of a line
        self._broken = bool(text) and not text.endswith("\n")
        if not text:
            self._append([{"verbalizer": verbalizer}])

    def __contains__(self, key: str) -> bool:
        return key in self._words

    def __getitem__(self, key: str) -> str:
        return self._words[key]

    def __len__(self) -> int:
        return len(self._words)

    def add(self, words: dict[str, str]) -> None:
        """Writes words by key; they are on the disk when this returns."""
        self._append([{"key": key, "words": text} for key, text in words.items()])
        self._words.update(words)

    def _append(self, rows: list[dict]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            if self._broken:
                file.write("\n")
                self._broken = False
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            file.flush()
            os.fsync(file.fileno())


__all__ = ["WordStore", "word_key"]
