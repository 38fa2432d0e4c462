"""Texts of WordNet and of the dialogues as rows with turns and the text they lead to."""

from __future__ import annotations

from collections.abc import Iterable

from .dialogues.texts import load_dialogue_texts, load_glosses
from .dialogues.things import split_of

Rows = dict[str, list[dict]]
"""Split -> rows."""


def glosses() -> Rows:
    """Definitions that lead to their words."""
    return {split: [_row(row["gloss"], row["title"]) for row in rows] for split, rows in load_glosses().items()}


def words() -> Rows:
    """Words of the glosses, each its own right answer, for training alone."""
    # A held-out thing may share its name with another one that is not held out.
    titles = [row["title"] for row in load_glosses()["train"]]
    return _themselves(title for title in titles if split_of([title])[0] == "train")


def turns() -> Rows:
    """Single turns of the dialogues, each its own right answer, for training alone."""
    return _themselves(turn["content"] for row in load_dialogue_texts()["train"] for turn in row["turns"])


def _themselves(texts: Iterable[str]) -> Rows:
    return {"train": [_row(text, text) for text in dict.fromkeys(texts)]}


def _row(text: str, target: str) -> dict:
    return {"turns": [{"role": "user", "content": text}], "target_text": target}
