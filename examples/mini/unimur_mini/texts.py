"""Texts of WordNet and of the dialogues as rows of turns and a target text."""

from __future__ import annotations

from collections.abc import Iterable

from .dialogues.texts import load_dialogue_texts, load_glosses
from .dialogues.things import split_of

Rows = dict[str, list[dict]]
"""Rows of each split."""


def glosses() -> Rows:
    """Returns definitions whose targets are the words that they define."""
    return {split: [_row(row["gloss"], row["title"]) for row in rows] for split, rows in load_glosses().items()}


def words() -> Rows:
    """Returns the words of the glosses, each of which is its own target. There is only a train split."""
    # A held-out thing and one that is not held out may have the same name.
    titles = [row["title"] for row in load_glosses()["train"]]
    return _themselves(title for title in titles if split_of([title])[0] == "train")


def turns() -> Rows:
    """Returns single turns of the dialogues, each of which is its own target. There is only a train split."""
    return _themselves(turn["content"] for row in load_dialogue_texts()["train"] for turn in row["turns"])


def _themselves(texts: Iterable[str]) -> Rows:
    return {"train": [_row(text, text) for text in dict.fromkeys(texts)]}


def _row(text: str, target: str) -> dict:
    return {"turns": [{"role": "user", "content": text}], "target_text": target}
