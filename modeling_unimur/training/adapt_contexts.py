"""Dialogue-shaped contexts made of plain texts, each with its relevant precomputed vectors."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch.utils.data import Dataset

from .ready_items import PrecomputedCorpus

# How often each form is drawn.
FORMS = {"whole": 30, "moved_on": 25, "cut": 20, "typed": 15, "dropped": 10}
# Forms that are a dialogue, which a run is judged by besides the whole text.
_SPOKEN = ("moved_on", "cut")
# A text of more words stands in a context by a span of it, as a person would quote or recall it.
_LONGEST, _SHORTEST = 24, 8
# A text without spaces is cut between its characters, where it is longer than this.
_UNSPACED = 16
# What the other one says while somebody goes on: nearly nothing, in nearly any language.
_NODS = ("ok", "hm?", "mm", "...", "aha")


def units(text: str) -> tuple[list[str], str]:
    """A text in words, or in characters where it has no spaces, and what joins them."""
    words = text.split()
    return (list(text), "") if len(words) == 1 and len(text) > _UNSPACED else (words, " ")


def quoted(text: str, rng: random.Random) -> str:
    """The text, or a span of a long one."""
    parts, joiner = units(text)
    if len(parts) <= _LONGEST:
        return text
    length = rng.randint(_SHORTEST, _LONGEST)
    start = rng.randint(0, len(parts) - length)
    return joiner.join(parts[start : start + length])


def make_turns(form: str, text: str, other: str, rng: random.Random) -> list[str]:
    """The turns of one context about a text.

    Args:
        form: one of `FORMS`. `whole`: the text alone. `moved_on`: another text before it, which does not count.
            `cut`: the text over two turns, with a nod or nothing between them. `typed`: without capitals and the last
            stop. `dropped`: a part of the words is missing.
        text: what is wanted.
        other: a text about something else.
        rng: decides what is left open.
    """
    text = quoted(text, rng)
    parts, joiner = units(text)
    if form == "moved_on":
        return [quoted(other, rng), rng.choice(_NODS), text] if rng.random() < 0.5 else [quoted(other, rng), text]
    if form == "cut" and len(parts) > 2:
        place = rng.randint(1, len(parts) - 1)
        first, last = joiner.join(parts[:place]), joiner.join(parts[place:])
        return [first, rng.choice(_NODS), last] if rng.random() < 0.5 else [first, last]
    if form == "typed":
        return [text.lower().rstrip(".!?。 ") or text]
    if form == "dropped" and len(parts) > 3:
        kept = [part for part in parts if rng.random() > 0.25]
        return [joiner.join(kept or parts)]
    return [text]


@dataclass
class Groups:
    """Items of equal text: they are right for one another.

    Args:
        texts: one per group.
        rows: kind to the group's item numbers, for every group.
    """

    texts: list[str]
    rows: dict[str, list[list[int]]]
    untold: int = 0

    @classmethod
    def of(cls, index: PrecomputedCorpus) -> Groups:
        """The groups of an index; items without a text are counted in `untold` and have none."""
        places: dict[str, int] = {}
        groups = cls([], {"text": [], "image": []})
        for row, (text, kind) in enumerate(zip(index.items.texts, index.items.kinds, strict=True)):
            if not text:
                groups.untold += 1
                continue
            key = text.casefold()
            if key not in places:
                places[key] = len(groups.texts)
                groups.texts.append(text)
                for rows in groups.rows.values():
                    rows.append([])
            groups.rows[kind][places[key]].append(row)
        return groups

    def __len__(self) -> int:
        return len(self.texts)


@dataclass
class Contexts:
    """Contexts and their right vectors.

    Args:
        turns: of each.
        groups: number of what is right; equal ones are right for each other.
        text_rows, image_rows: rows of the tables of targets, -1 for none.
    """

    turns: list[list[str]] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)
    text_rows: list[int] = field(default_factory=list)
    image_rows: list[int] = field(default_factory=list)

    def add(self, turns: list[str], group: int, text_row: int, image_row: int) -> None:
        """One more."""
        self.turns.append(turns)
        self.groups.append(group)
        self.text_rows.append(text_row)
        self.image_rows.append(image_row)

    def __len__(self) -> int:
        return len(self.turns)


def training_contexts(groups: Groups, chosen: Sequence[int], count: int, seed: int) -> Contexts:
    """Contexts about some groups: all of them before one comes again.

    Args:
        groups: of an index.
        chosen: those to train on.
        count: contexts at most; where there are fewer groups, each stands in up to one of every form.
        seed: of order and forms.
    """
    rng, order, found = random.Random(seed), list(chosen), Contexts()
    rng.shuffle(order)
    for number in range(min(count, len(order) * len(FORMS))):
        group = order[number % len(order)]
        form = rng.choices(list(FORMS), list(FORMS.values()))[0]
        turns = make_turns(form, groups.texts[group], groups.texts[rng.choice(order)], rng)
        rows = {kind: groups.rows[kind][group] for kind in groups.rows}
        found.add(turns, group, *(rng.choice(rows[kind]) if rows[kind] else -1 for kind in ("text", "image")))
    return found


def judging_contexts(groups: Groups, chosen: Sequence[int], spoken: bool, seed: int) -> list[list[str]]:
    """One context a group, the whole text (a span of a long one), or a dialogue around it."""
    rng, found = random.Random(seed), []
    for group in chosen:
        others = [number for number in chosen if number != group] or [group]
        form = rng.choice(_SPOKEN) if spoken else "whole"
        found.append(make_turns(form, groups.texts[group], groups.texts[rng.choice(others)], rng))
    return found


class AdaptRows(Dataset):
    """Contexts as rows for `DualAlignmentCollator`.

    Args:
        contexts: with rows of the tables.
        texts (`(n, width)`), images (`(m, width)`): unit vectors of the right answers.
    """

    def __init__(self, contexts: Contexts, texts: torch.Tensor, images: torch.Tensor):
        self.contexts, self.texts, self.images = contexts, texts, images

    def __len__(self) -> int:
        return len(self.contexts)

    def __getitem__(self, row: int) -> dict:
        text, image = self.contexts.text_rows[row], self.contexts.image_rows[row]
        return {
            "turns": self.contexts.turns[row],
            "visual_features": None,
            "target_text_features": None if text < 0 else self.texts[text],
            "target_image_features": None if image < 0 else self.images[image],
            "target_ids": torch.tensor(self.contexts.groups[row]),
            "caption": None,
        }


__all__ = ["FORMS", "AdaptRows", "Contexts", "Groups", "judging_contexts", "make_turns", "training_contexts"]
