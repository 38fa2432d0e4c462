"""A person's own chats: JSON lines of chat messages, as `unimur compare` takes them, as contexts with replies."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from pathlib import Path
from typing import Any

from ..conversation import read_conversation
from .dialog_schema import ReadReport
from .json_lines import scan_json_lines
from .text_lines import open_lines

logger = logging.getLogger(__name__)

# Turns of the longest context.
MOST_TURNS = 20
# Per mille of all chats.
_HELD_OUT = {"validation": 100, "test": 100}
# Of fewer, a tenth is none.
_FEW_CHATS = 20
_LETTERS = re.compile(r"[^\W_]+")
_ROLES = ("user", "assistant")


def read_own_chats(path: str | os.PathLike) -> tuple[list[dict], ReadReport]:
    """Read chats and make each turn after the first one a reply to the up to 20 turns before it.

    Args:
        path: JSON lines. A line is an object with `turns` (or `messages`), chat messages with `role` and `content`; a
            `gold_text` is the reply to all of them; a `dialogue_id` keeps its lines in one split. A line may be the
            list of messages itself. Messages of other roles, such as `system`, are left out, and so are images, since
            contexts of texts hold none.

    Returns:
        `tuple[list[dict], ReadReport]`: rows with `dialogue_id`, `turns` (messages with `role` and `content`, a text),
        `target_text` (replies that are equal but for case and punctuation share one wording) and `group` (the chat);
        and what was read and left out, with line numbers, which is logged too. The same context with the same reply
        stands once.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no line holds a context and its reply; the message says what is wrong with the first lines.
    """
    path = Path(path).expanduser()
    report = ReadReport(str(path))
    wordings: dict[str, str] = {}
    rows: dict[tuple[str, ...], dict] = {}
    with open_lines(path) as file:
        for number, value, problem in scan_json_lines(file, str(path)):
            where = f"line {number}"
            if problem is not None:
                report.lose("lines that cannot be read", f"{where}: {problem}")
                continue
            try:
                turns, images = _turns(value)
            except (ValueError, OSError) as error:
                report.lose("lines that are no chat", f"{where}: {error}")
                continue
            if images:
                report.lose("lines whose images are left out", where)
            found = 0
            group = _group(value, turns)
            for place in range(1, len(turns)):
                reply = turns[place]["content"]
                if key := reply_key(reply):
                    found += 1
                    reply = wordings.setdefault(key, reply)
                    context = turns[max(0, place - MOST_TURNS) : place]
                    same = (*(turn["content"] for turn in context), reply)
                    row = {"dialogue_id": f"{number}/{place}", "turns": context, "target_text": reply, "group": group}
                    rows.setdefault(same, row)
            if not found:
                report.lose("chats without a reply", where)
            report.found["chats"] += bool(found)
    report.found["replies"] = len(rows)
    if not rows:
        raise ValueError(
            f"{report.describe()}. Nothing to learn from: write one chat a line, such as "
            '{"turns": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}.'
        )
    logger.log(logging.WARNING if report.lost else logging.INFO, "%s", report.describe())
    return list(rows.values()), report


def split_own_chats(rows: list[dict]) -> dict[str, list[dict]]:
    """Rows of `read_own_chats` in `train` (eight tenths of the chats), `validation` and `test`, by the chat's hash; of
    fewer than 20 chats all are in `train`."""
    parts: dict[str, list[dict]] = {"train": [], "validation": [], "test": []}
    few = len({row["group"] for row in rows}) < _FEW_CHATS
    for row in rows:
        parts["train" if few else chat_split(row["group"])].append(row)
    return parts


def chat_split(chat_id: str) -> str:
    """Return the split of a chat, which depends on the hash of its id."""
    place = int.from_bytes(hashlib.sha256(chat_id.encode()).digest()[:4], "big") % 1_000
    for split, share in _HELD_OUT.items():
        if place < share:
            return split
        place -= share
    return "train"


def reply_key(text: str) -> str:
    """Return the words of a reply without case and punctuation. Replies with the same words are equal."""
    return " ".join(_LETTERS.findall(text.casefold()))


def _turns(value: Any) -> tuple[list[dict], int]:
    """Turns that have words, and the number of images that stand among them."""
    gold = None
    if isinstance(value, dict):
        gold = value.get("gold_text")
        value = value.get("turns", value.get("messages"))
    if not isinstance(value, list):
        raise ValueError("a chat has turns, which are chat messages")
    if gold is not None and not isinstance(gold, str):
        raise ValueError("gold_text is a text")
    # The images are not opened: whatever they are is handed through.
    messages, images = read_conversation(value, "turns", load=lambda source, allow_urls: source)
    turns = []
    for message in messages:
        text = " ".join(" ".join(part["text"] for part in message["content"] if part["type"] == "text").split())
        if text and message["role"] in _ROLES:
            turns.append({"role": message["role"], "content": text})
    if gold and gold.strip():
        turns.append({"role": "assistant", "content": " ".join(gold.split())})
    return turns, len(images)


def _group(value: Any, turns: list[dict]) -> str:
    """What keeps lines in one split: the dialogue's id, or how it begins, since logs repeat a chat as it grows."""
    if isinstance(value, dict) and value.get("dialogue_id") is not None:
        return str(value["dialogue_id"])
    return hashlib.sha256("\n".join(turn["content"] for turn in turns[:2]).encode()).hexdigest()
