"""The encoder of an index embeds texts that the index does not hold."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from ..data.cache import PackageUnavailable
from .adapt_contexts import Contexts, Groups
from .dev_sets import DevSet
from .ready_items import PrecomputedCorpus
from .text_encoders import TextSpace
from .unpaired_texts import DEFAULT_SOURCES, TextContext, load_texts

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
    """Compares what the encoder makes of some texts with their vectors in the index.

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


@dataclass
class EncoderContexts:
    """What came of the encoder.

    Args:
        table (`(rows, width)`): the right texts so far, then the new ones.
        sets: from glosses, built dialogues, own chats and rounds of questions to their texts, to judge by.
        choosing: the same of other contexts, to choose by.
        notes: what a person should know.
    """

    table: torch.Tensor
    sets: list[DevSet] = field(default_factory=list)
    choosing: list[DevSet] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def encoder_contexts(
    space: TextSpace,
    groups: Groups,
    chosen: Sequence[int],
    held_out: Sequence[int],
    contexts: Contexts,
    count: int,
    table: torch.Tensor,
    chats: str | None = None,
) -> EncoderContexts:
    """Adds to the contexts: a right text for images that have only a caption, dialogues and glosses, and own chats.

    Args:
        space: of the index.
        groups: of the index; `chosen` are trained on, `held_out` judge: a text of the latter is never a right answer.
        contexts: are added to.
        count: of what is added, at most; each source has an equal share.
        table (`(rows, width)`): the right texts so far.
        chats: path of a person's own chats, as `read_own_chats` takes them.
    """
    targets: dict[str, int] = {}

    def row_of(text: str) -> int:
        return targets.setdefault(text, len(table) + len(targets))

    for number, group in enumerate(contexts.groups):
        if contexts.text_rows[number] < 0:
            contexts.text_rows[number] = row_of(groups.texts[group])
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
            contexts.add(context.turns, group, row_of(context.target), -1)
    if targets:
        table = torch.cat([table, space.encode_documents(list(targets), desc="Encoding right answers")])
    found = EncoderContexts(table, notes=notes)
    for name, parts in (sources | untrained).items():
        choosing, judging = _held_out(parts)
        found.choosing += [_dev_set(space, name, choosing)] if choosing else []
        found.sets += [_dev_set(space, name, judging)] if judging else []
        if not choosing:
            notes.append(f"Too few contexts of {name.partition('=')[0]} to hold any out: nothing is chosen by them.")
    return found


def _held_out(parts: dict[str, list[TextContext]]) -> tuple[list[TextContext], list[TextContext]]:
    """Contexts that choose, and others that judge: the validation and the test split, or halves of the only one."""
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


__all__ = ["EncoderContexts", "encoder_contexts", "require_same_space"]
