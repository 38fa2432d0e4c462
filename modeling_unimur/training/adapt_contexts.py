"""Makes dialogue-shaped contexts with their relevant precomputed vectors, from the texts of the index and from texts
that its encoder embeds."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Dataset

from ..data.cache import PackageUnavailable
from .context_rows import DEFAULT_SOURCES, TextContext, load_texts
from .dev_sets import DevSet
from .precomputed import PrecomputedCorpus
from .text_encoders import TextSpace

# How often each form is drawn.
FORMS = {"whole": 30, "moved_on": 25, "cut": 20, "typed": 15, "dropped": 10}
# Forms that are a dialogue, which a run is judged by besides the whole text.
_SPOKEN = ("moved_on", "cut")
# A text of more words stands in a context by a span of it, as a person would quote or recall it.
_LONGEST, _SHORTEST = 24, 8
# A text without spaces is cut between its characters, where it is longer than this.
_UNSPACED = 16
# Share of contexts with an image, where the encoder of the index reads images.
IMAGE_SHARE = 0.25
# What the other one says while somebody goes on: nearly nothing, in nearly any language.
_NODS = ("ok", "hm?", "mm", "...", "aha")


def units(text: str) -> tuple[list[str], str]:
    """Split a text into words, or into characters if it has no spaces. Returns the parts and what joins them."""
    words = text.split()
    return (list(text), "") if len(words) == 1 and len(text) > _UNSPACED else (words, " ")


def quoted(text: str, rng: random.Random) -> str:
    """Return the text, or a span of a long one."""
    parts, joiner = units(text)
    if len(parts) <= _LONGEST:
        return text
    length = rng.randint(_SHORTEST, _LONGEST)
    start = rng.randint(0, len(parts) - length)
    return joiner.join(parts[start : start + length])


def make_turns(form: str, text: str, other: str, rng: random.Random) -> list[str]:
    """Make the turns of one context about a text.

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
    """Groups of items with equal texts, which are relevant for one another.

    Args:
        texts: one per group.
        rows: kind to the group's item numbers, for every group.
    """

    texts: list[str]
    rows: dict[str, list[list[int]]]
    untold: int = 0

    @classmethod
    def of(cls, index: PrecomputedCorpus) -> Groups:
        """Groups the items of an index by their texts. Items without a text are counted in `untold`."""
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
class Context:
    """A context and its relevant vectors.

    Args:
        turns: turns of the dialogue.
        group: number of what is right; equal ones are right for each other.
        text_row, image_row: rows of the tables of targets, -1 for none.
        shown: row of the table of images that stands before the last turn, -1 for none.
    """

    turns: list[str]
    group: int
    text_row: int
    image_row: int = -1
    shown: int = -1


def training_contexts(
    groups: Groups, chosen: Sequence[int], count: int, seed: int, image_share: float = 0.0
) -> list[Context]:
    """Makes contexts about some groups; each group is used once before any is used again.

    Args:
        groups: groups of an index.
        chosen: those to train on.
        count: contexts at most; where there are fewer groups, each stands in up to one of every form.
        seed: seed of order and forms.
        image_share: share of the contexts that show an image. Half of them show only the image of the right answer,
            half another image before the words.
    """
    rng, order, found = random.Random(seed), list(chosen), []
    rng.shuffle(order)
    for number in range(min(count, len(order) * len(FORMS))):
        group = order[number % len(order)]
        form = rng.choices(list(FORMS), list(FORMS.values()))[0]
        turns = make_turns(form, groups.texts[group], groups.texts[rng.choice(order)], rng)
        rows = {kind: groups.rows[kind][group] for kind in groups.rows}
        text, image = (rng.choice(rows[kind]) if rows[kind] else -1 for kind in ("text", "image"))
        shown = -1
        if image_share and rng.random() < image_share:
            others = groups.rows["image"][rng.choice(order)]
            if image >= 0 and rng.random() < 0.5:
                turns, shown = [""], image
            elif others:
                shown = rng.choice(others)
        found.append(Context(turns, group, text, image, shown))
    return found


def judging_contexts(groups: Groups, chosen: Sequence[int], spoken: bool, seed: int) -> list[list[str]]:
    """Makes one context per group: its text (a span of a long one), or a dialogue around it."""
    rng, found = random.Random(seed), []
    for group in chosen:
        others = [number for number in chosen if number != group] or [group]
        form = rng.choice(_SPOKEN) if spoken else "whole"
        found.append(make_turns(form, groups.texts[group], groups.texts[rng.choice(others)], rng))
    return found


class AdaptRows(Dataset):
    """Gives contexts as rows for `DualAlignmentCollator`.

    Args:
        contexts: with rows of the tables.
        texts (`(n, width)`), images (`(m, width)`): unit vectors of the right answers.
    """

    def __init__(self, contexts: list[Context], texts: torch.Tensor, images: torch.Tensor):
        self.contexts, self.texts, self.images = contexts, texts, images

    def __len__(self) -> int:
        return len(self.contexts)

    def __getitem__(self, row: int) -> dict:
        one = self.contexts[row]
        return {
            "turns": one.turns,
            "visual_features": None if one.shown < 0 else self.images[one.shown : one.shown + 1],
            "target_text_features": None if one.text_row < 0 else self.texts[one.text_row],
            "target_image_features": None if one.image_row < 0 else self.images[one.image_row],
            "target_ids": torch.tensor(one.group),
            "caption": None,
        }


# Texts that tell whether an encoder made an index, the median cosine below which it did not, and that below which a
# prompt, a cut or another precision makes a difference.
_PROBES, _OTHER, _SAME = 64, 0.8, 0.98
_DEV_CONTEXTS = 200
_DEV_NAMES = {
    "glosses": "gloss_to_title",
    "dialogues": "built_dialogue_to_text",
    "chats": "own_chat_to_reply",
    "questions": "questions_to_text",
}
# A kind of dialogue that is not trained on: weights that suit short dialogues alone show in ten rounds of questions.
_UNTRAINED = ("questions",)


def require_same_space(space: TextSpace, index: PrecomputedCorpus) -> str:
    """Compare the encoder's vectors of some texts with those in the index.

    Returns:
        `str`: what was found, in words.

    Raises:
        ValueError: the encoder has another width, or did not make these vectors.
    """
    rows = [row for row in index.rows("text").tolist() if index.items.texts[row]]
    texts = [index.items.texts[row] for row in rows]
    if not texts:
        texts = [text for text in index.items.texts if text][:1]
    order = sorted(range(len(texts)), key=lambda number: len(texts[number]))[: len(texts) // 2 + 1]  # cuts differ
    picked = random.Random(0).sample(order, min(_PROBES, len(order)))
    found = space.encode_documents([texts[number] for number in picked])
    if found.shape[1] != index.width:
        raise ValueError(
            f"{space.name} gives vectors of {found.shape[1]} numbers, and the index has {index.width}: name the "
            "encoder that made the index, or none."
        )
    if not rows:
        return (
            "The index holds images alone: whether the encoder made it shows in its own recall from captions, below."
        )
    cosines = (found * index.vectors[torch.tensor([rows[number] for number in picked])]).sum(dim=1)
    median = float(cosines.median())
    if median < _OTHER:
        raise ValueError(
            f"{space.name} did not make these vectors: on {len(picked)} texts its own have a median cosine of "
            f"{median:.2f} with them. Name the encoder that made the index, or none."
        )
    note = f"The encoder's own vectors of {len(picked)} indexed texts have a median cosine of {median:.3f} with them"
    return f"{note}." if median >= _SAME else f"{note}: perhaps a prompt, or a cut, that it does not know of."


def encoder_contexts(
    space: TextSpace,
    groups: Groups,
    chosen: Sequence[int],
    held_out: Sequence[int],
    contexts: list[Context],
    count: int,
    table: torch.Tensor,
    chats: str | None = None,
) -> tuple[torch.Tensor, list[DevSet], list[DevSet], list[str]]:
    """Adds to the contexts: a right text for images that have only a caption, dialogues and glosses, and own chats.

    Args:
        space: space of the index.
        groups: groups of the index. `chosen` are for training and `held_out` for evaluation: a text of the latter is
            never a right answer.
        contexts: the contexts to add to.
        count: largest number of contexts that are added. Each source has an equal share.
        table (`(rows, width)`): the right texts so far.
        chats: path of a person's own chats, as `read_own_chats` takes them.

    Returns:
        the right texts so far and the new ones `(rows, width)`; sets that judge, from glosses, built dialogues, own
        chats and rounds of questions to their texts; sets that choose, of other contexts; and notes for a person.
    """
    targets: dict[str, int] = {}

    def row_of(text: str) -> int:
        return targets.setdefault(text, len(table) + len(targets))

    for one in contexts:
        if one.text_row < 0:
            one.text_row = row_of(groups.texts[one.group])
    notes: list[str] = []
    sources, untrained = load_texts([f"chats={chats}"]) if chats is not None else {}, {}
    try:
        sources |= load_texts(list(DEFAULT_SOURCES))
        untrained = load_texts(list(_UNTRAINED))
    except PackageUnavailable as error:
        notes.append(f"Dialogues and glosses are left out, so contexts are the index's own texts: {error}")
    places = {groups.texts[group].casefold(): group for group in chosen}
    kept = {groups.texts[group].casefold() for group in held_out}
    share = count // max(len(sources), 1)
    rng = random.Random(0)
    fresh: dict[str, int] = {}
    for parts in sources.values():
        everything = [context for context in parts["train"] if context.target.casefold() not in kept]
        for context in rng.sample(everything, min(share, len(everything))):
            key = context.target.casefold()
            group = places.get(key)
            if group is None:
                group = fresh.setdefault(key, len(groups) + len(fresh))
            contexts.append(Context(context.turns, group, row_of(context.target)))
    if targets:
        table = torch.cat([table, space.encode_documents(list(targets), desc="Encoding right answers")])
    judges: list[DevSet] = []
    deciding: list[DevSet] = []
    for name, parts in (sources | untrained).items():
        choosing, judging = _held_out(parts)
        deciding += [_dev_set(space, name, choosing)] if choosing else []
        judges += [_dev_set(space, name, judging)] if judging else []
        if not choosing:
            notes.append(f"Too few contexts of {name.partition('=')[0]} to hold any out: nothing is chosen by them.")
    return table, judges, deciding, notes


def _held_out(parts: dict[str, list[TextContext]]) -> tuple[list[TextContext], list[TextContext]]:
    """Returns contexts for selection and others for evaluation: the validation and the test split, or halves of the
    only one."""
    choosing, judging = parts["validation"], parts["test"]
    if not choosing or not judging:
        both = [*choosing, *judging]
        half = (len(both) + 1) // 2
        choosing, judging = both[:half], both[half:]
    return choosing[:_DEV_CONTEXTS], judging[:_DEV_CONTEXTS]


def _dev_set(space: TextSpace, source: str, contexts: list[TextContext]) -> DevSet:
    distinct = list(dict.fromkeys(context.target for context in contexts))
    numbers = {target: number for number, target in enumerate(distinct)}
    ids = np.array([numbers[context.target] for context in contexts])
    vectors = space.encode_documents(distinct, desc="Encoding right answers")
    return DevSet(
        _DEV_NAMES[source.partition("=")[0]],
        [c.turns for c in contexts],
        ids,
        "text",
        vectors,
        np.arange(len(distinct)),
    )
