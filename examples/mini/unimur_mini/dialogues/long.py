"""Contexts of 6 to 20 turns and up to about 400 tokens.

They are longer parts of one chat, or several dialogues of which only the last one asks for the reply.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

from datasets import DatasetDict

from modeling_unimur.data.own_chats import MOST_TURNS

from ..chats import CONTEXT_TURNS, build_chats, fetch_chats
from ..kept_rows import as_datasets, columns, kept, rows_of
from .texts import load_dialogue_texts

FEWEST_TURNS = 6
# Small language models use about four tokens for three words.
MOST_WORDS = 300
TRAIN_SIZE = 12_000
# Share of the earlier dialogues that end with the reply that was found for them. The others end without it.
ANSWERED_SHARE = 0.7
# Increased whenever the rows change, so that tables cached by an older version are not read.
VERSION = 1

LONG_FEATURES = columns("dialogue_id", "form", "turns", "target_text", "target_picture", "group", "license")


def load_long_chats() -> DatasetDict:
    """Reads chats between people in longer contexts, which are built once and kept in the cache.

    The column `form` is `one_chat` for 6 to 20 turns of the chat of the reply, and `earlier_chat` for up to five of
    them after turns of other chats, which are irrelevant. No reply in the pool of a held-out split occurs in a
    context. The splits are those of `load_chats`.

    Raises:
        PackageUnavailable: if pip cannot download the chats.
    """

    def build() -> DatasetDict:
        return as_datasets(build_long_chats(build_chats(fetch_chats(), MOST_TURNS)), LONG_FEATURES)

    return kept(f"long-chats-{VERSION}", build)


def load_long_dialogues() -> DatasetDict:
    """Reads sequences of dialogues built from WordNet, of which only the last one asks for the reply.

    The answers of the earlier dialogues may be among their turns. The splits and the errors are those of
    `load_dialogue_texts`.
    """

    def build() -> DatasetDict:
        parts = {split: rows_of(part) for split, part in load_dialogue_texts().items()}
        return as_datasets(build_long_dialogues(parts), LONG_FEATURES)

    return kept(f"long-dialogues-{VERSION}", build)


def build_long_chats(parts: dict[str, list[dict]], seed: int = 0) -> dict[str, list[dict]]:
    """Builds the rows of `load_long_chats` from those of `build_chats` with contexts of up to 20 turns."""

    def lengthen(row: dict, others: Iterator[dict], rng: random.Random) -> dict:
        most = rng.randint(FEWEST_TURNS, MOST_TURNS)
        if len(row["turns"]) > CONTEXT_TURNS and rng.random() < 0.5:
            return {**row, "form": "one_chat", "turns": row["turns"][-most:]}
        turns = row["turns"][-rng.randint(1, CONTEXT_TURNS) :]
        for other in others:
            turns = other["turns"][-max(most - len(turns), 1) :] + turns
            if len(turns) >= most:
                break
        return {**row, "form": "earlier_chat", "turns": turns}

    return _long_rows(parts, lengthen, seed)


def build_long_dialogues(parts: dict[str, list[dict]], seed: int = 0) -> dict[str, list[dict]]:
    """Builds the rows of `load_long_dialogues` from those of `load_dialogue_texts`."""

    def lengthen(row: dict, others: Iterator[dict], rng: random.Random) -> dict:
        most, turns = rng.randint(FEWEST_TURNS, MOST_TURNS), row["turns"]
        for other in others:
            earlier = list(other["turns"])
            if rng.random() < ANSWERED_SHARE:
                earlier.append({"content": other["target_text"]})
            said = " ".join(turn["content"] for turn in earlier).casefold()
            if row["target_text"].casefold() in said:
                continue
            turns = earlier[-max(most - len(turns), 1) :] + turns
            if len(turns) >= most:
                break
        return {**row, "form": "earlier_dialogues", "turns": turns}

    return _long_rows(parts, lengthen, seed)


def _long_rows(
    parts: dict[str, list[dict]], lengthen: Callable[[dict, Iterator[dict], random.Random], dict], seed: int
) -> dict[str, list[dict]]:
    found: dict[str, list[dict]] = {}
    for split, rows in parts.items():
        chosen = rows
        if split == "train" and len(rows) > TRAIN_SIZE:
            chosen = random.Random(seed).sample(rows, TRAIN_SIZE)
        found[split] = []
        for row in chosen:
            rng = random.Random(f"{seed}:{row['dialogue_id']}")
            long = lengthen(row, _others(row, rows, rng), rng)
            turns = _alternating(_shortened(long["turns"]), row["turns"][-1]["role"])
            if len(turns) > 1:
                found[split].append({"target_picture": "", **long, "turns": turns})
    return found


def _others(row: dict, rows: Sequence[dict], rng: random.Random) -> Iterator[dict]:
    """Yields rows about something else, in random order."""
    for other in rng.sample(rows, min(len(rows), 2 * MOST_TURNS)):
        if other["group"] != row["group"] and other["target_text"] != row["target_text"]:
            yield other


def _shortened(turns: list[dict]) -> list[dict]:
    """Returns the latest turns that have at most `MOST_WORDS` words together, and at least the last turn."""
    words = 0
    for place in range(len(turns) - 1, -1, -1):
        words += len(turns[place]["content"].split())
        if place < len(turns) - 1 and words > MOST_WORDS:
            return turns[place + 1 :]
    return turns[-MOST_TURNS:]


def _alternating(turns: list[dict], last: str) -> list[dict]:
    """Returns the turns with alternating roles, such that the last one has the role `last`."""
    roles = (last, "assistant" if last == "user" else "user")
    count = len(turns)
    return [{"role": roles[(count - 1 - place) % 2], "content": turn["content"]} for place, turn in enumerate(turns)]
