"""Chats between people: contexts of a few turns and their replies (`chitchat-dataset` on PyPI, licence MIT).

Students of Brigham Young University chatted in pairs in 2018 (Myers, Etchart and Fulda, "Conversational Scaffolding",
2020): 7,168 chats of 1,315 people, half of which were never answered. A turn holds all messages that one person sent
before the other one answered. The hash of a chat's id decides its split, so a person may have chats in several splits.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from datasets import DatasetDict

from modeling_unimur.data.json_lines import parse_json
from modeling_unimur.data.own_chats import chat_split, reply_key

from .kept_rows import SPLITS, as_datasets, columns, kept
from .packages import CHITCHAT_REQUIREMENT, pip_package

CHATS_LICENSE = "MIT"
# Number of replies in the pool of a held-out split.
POOL_SIZE = 1_000
CONTEXT_TURNS = 5
FEWEST_WORDS, MOST_WORDS = 4, 25
# Increased whenever the rows change, so that tables cached by an older version are not read.
VERSION = 1

CHAT_FEATURES = columns("dialogue_id", "turns", "target_text", "group", "license")
# E-mail addresses, web addresses, account names and telephone numbers.
_ADDRESS = re.compile(
    r"\S+@\S+\.\w\S*|(?<!\S)@\w[\w.]+|\bhttps?:\S*|\bwww\.\S+|\b[\w-]+(?:\.[\w-]+)*\.(?:com|org|net|edu|gov|io)\b\S*"
    r"|(?<!\d)\(?\d{3}\)?[-. ]?\d{3}[-. ]?\d{4}(?!\d)",
    re.I,
)
_LETTERS = re.compile(r"[^\W_]+")


def load_chats() -> DatasetDict:
    """Reads the chats, which are built once and kept in the cache.

    In `validation` and `test`, each reply occurs only once in all chats, so that only its own context asks for it, and
    no reply of the pool occurs in a context. In `train`, replies that differ only in case and punctuation are given
    the same wording.

    Returns:
        The splits `train`, `validation` and `test` (the held-out ones have 1,000 contexts each, whose replies are the
        pool) with the columns `dialogue_id` (chat and position of the reply), `turns` (up to five messages, of which
        the last one is the user's), `target_text` (a reply of 4 to 25 words without addresses or telephone numbers),
        `group` (id of the chat) and `license`.

    Raises:
        PackageUnavailable: if pip cannot download the package.
    """
    return kept(f"chats-{VERSION}", lambda: as_datasets(build_chats(fetch_chats()), CHAT_FEATURES))


def fetch_chats() -> dict[str, list[str]]:
    """Reads the turns of each chat, by the chat's id, from the package.

    Messages that one person sent in a row are one turn. Raises what `load_chats` raises.
    """
    path = pip_package(CHITCHAT_REQUIREMENT) / "chitchat_dataset" / "dataset.json"
    return {
        chat_id: [" ".join(" ".join(sent["text"] or "" for sent in turn).split()) for turn in chat["messages"]]
        for chat_id, chat in parse_json(path.read_bytes()).items()
    }


def build_chats(chats: Mapping[str, list[str]], context_turns: int = CONTEXT_TURNS) -> dict[str, list[dict]]:
    """Builds the rows of each split, as `load_chats` keeps them, from the turns of each chat.

    A context has at most `context_turns` turns.
    """
    rows: dict[str, list[dict]] = {split: [] for split in SPLITS}
    for chat_id, turns in chats.items():
        rows[chat_split(chat_id)] += _pairs(chat_id, turns, context_turns)
    said = Counter(reply_key(text) for turns in chats.values() for text in turns)
    wordings: dict[str, str] = {}
    for row in rows["train"]:
        row["target_text"] = wordings.setdefault(reply_key(row["target_text"]), row["target_text"])
    for split in SPLITS[1:]:
        alone = [row for row in rows[split] if said[reply_key(row["target_text"])] == 1]
        rows[split] = _pool(alone, context_turns)
    return rows


def without_addresses(text: str) -> str:
    """Removes e-mail addresses, web addresses, account names (`@name`) and telephone numbers from a turn."""
    return " ".join(_ADDRESS.sub(" ", text).split())


def _pairs(chat_id: str, turns: list[str], context_turns: int) -> Iterator[dict]:
    cleaned = list(map(without_addresses, turns))
    for place in range(1, len(turns)):
        reply = turns[place]
        if not FEWEST_WORDS <= sum(map(bool, map(_LETTERS.search, reply.split()))) <= MOST_WORDS:
            continue
        context = [text for text in cleaned[max(0, place - context_turns) : place] if text]
        if not context or cleaned[place] != reply:
            continue
        roles = ("assistant", "user") if len(context) % 2 == 0 else ("user", "assistant")
        yield {
            "dialogue_id": f"{chat_id}/{place}",
            "turns": [{"role": roles[number % 2], "content": text} for number, text in enumerate(context)],
            "target_text": reply,
            "group": chat_id,
            "license": CHATS_LICENSE,
        }


def _pool(rows: Iterable[dict], context_turns: int) -> list[dict]:
    """Chooses up to `POOL_SIZE` rows such that no reply occurs in the context of another row."""
    rows = sorted(rows, key=lambda row: hashlib.sha256(row["dialogue_id"].encode()).digest())
    taken: dict[str, list[int]] = {}
    chosen = []
    for row in rows:
        place = int(row["dialogue_id"].rpartition("/")[2])
        others = taken.setdefault(row["group"], [])
        if len(chosen) < POOL_SIZE and all(abs(place - other) > context_turns for other in others):
            others.append(place)
            chosen.append(row)
    return chosen
