"""MMDialog's replies as queries over one corpus, each dialogue with its own pools."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from ...data.dialog_schema import Dialog
from ..systems.base import Gallery

# They take turns; who begins is the user.
_ROLES = ("user", "assistant")


@dataclass(frozen=True)
class Reply:
    """What a turn should be.

    Args:
        query: number of its context.
        dialog, turn: its place.
        kinds: of its elements, in order.
        golds: kind -> numbers of the right candidates, in order.
    """

    query: int
    dialog: int
    turn: int
    kinds: tuple[str, ...]
    golds: dict[str, tuple[int, ...]]


@dataclass
class ReplySet:
    """All replies of a split.

    Args:
        dialog_ids: of the dialogues.
        groups: for each dialogue its contexts, as chat messages.
        replies: in the order of the dialogues.
        gallery: all candidates.
        pools: kind -> for each dialogue the numbers of its negatives.
        sources: kind -> for each candidate the dialogues that it was taken from.
        lost: reason -> number of replies and candidates that were left out.
    """

    dialog_ids: list[str]
    groups: list[list[list[dict]]]
    replies: list[Reply]
    gallery: Gallery
    pools: dict[str, list[np.ndarray]]
    sources: dict[str, list[frozenset]]
    lost: Counter


class _Corpus:
    """Candidates of one kind, each once."""

    def __init__(self):
        self.numbers: dict[str, int] = {}
        self.dialogs: list[set[int]] = []

    def number(self, item: str, dialog: int | None = None) -> int:
        number = self.numbers.setdefault(item, len(self.numbers))
        if number == len(self.dialogs):
            self.dialogs.append(set())
        if dialog is not None:
            self.dialogs[number].add(dialog)
        return number


def read_replies(
    dialogs: Iterable[Dialog], picture: Callable[[str], Path | None], words: Callable[[str], str] = lambda name: ""
) -> ReplySet:
    """Every turn but the first as a reply; all turns before it are its context.

    Args:
        dialogs: with their negatives.
        picture: image id to file; None where it is missing. Missing images are left out of contexts and pools, and
            as right answers.
        words: image id to what it is called, for systems that cannot see.

    Raises:
        ValueError: no dialogue has a reply.
    """
    corpora = {"text": _Corpus(), "image": _Corpus()}
    files: dict[str, str] = {}
    found = ReplySet([], [], [], Gallery(()), {"text": [], "image": []}, {}, Counter())
    gone: set[str] = set()

    def has(name: str) -> bool:
        if name not in files and name not in gone:
            path = picture(name)
            if path is None:
                gone.add(name)
            else:
                files[name] = str(path)
        return name in files

    queries = 0
    for dialog in tqdm(dialogs, desc="Reading dialogues", unit="dialogue"):
        number, group, messages = len(found.dialog_ids), [], []
        for place, turn in enumerate(dialog.turns):
            for name in turn.image_ids:
                has(name)
            golds: dict[str, tuple[int, ...]] = {}
            kinds = []
            for kind, value in turn.elements:
                if kind == "image" and not has(value):
                    found.lost["gold images that are missing"] += place > 0
                    continue
                kinds.append(kind)
                golds[kind] = (*golds.get(kind, ()), corpora[kind].number(value, number))
            if place and not any(message["content"] for message in messages):
                found.lost["replies without a readable context"] += 1
            elif place and not kinds:
                found.lost["replies of which nothing is left"] += 1
            elif place:
                group.append([message for message in messages if message["content"]])
                found.replies.append(Reply(queries, number, place, tuple(kinds), golds))
                queries += 1
            messages.append(turn.message(_ROLES[place % 2], files))
        if not group:
            found.lost["dialogues without a reply"] += 1
            group = []
        names = [name for name in dialog.negative_images if has(name)]
        found.lost["negative images that are missing"] += len(dialog.negative_images) - len(names)
        for kind, items in (("text", dialog.negative_texts), ("image", names)):
            pool = [corpora[kind].number(item) for item in dict.fromkeys(items)]
            found.pools[kind].append(np.array(pool, dtype=np.int32))
        found.dialog_ids.append(dialog.dialog_id)
        found.groups.append(group)
    if not found.replies:
        raise ValueError("No dialogue has a reply: a dialogue needs two turns at least.")
    pictures = list(corpora["image"].numbers)
    found.gallery = Gallery(
        tuple(corpora["text"].numbers), tuple(pictures), tuple(files[n] for n in pictures), tuple(map(words, pictures))
    )
    found.sources = {kind: [frozenset(owners) for owners in corpus.dialogs] for kind, corpus in corpora.items()}
    found.lost = Counter({reason: count for reason, count in found.lost.items() if count})
    return found


__all__ = ["Reply", "ReplySet", "read_replies"]
