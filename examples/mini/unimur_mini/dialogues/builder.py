"""Builds dialogues about things: draws a form, writes its turns, and drops dialogues that name the thing."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypedDict

from . import forms
from .phrases import WORDS
from .stems import says
from .surface import Typing
from .talk import NothingLeft, Talk
from .things import Thing

_TRIES = 16
_GLOSS_SHARE = 0.1
# How often each form is drawn for each kind of thing.
_NOUN_FORMS, _CAPTION_FORMS, _IMAGE_FORMS, _WORD_FORMS = (
    {form: int(weight) for form, weight in map(str.split, WORDS[f"forms.{kind}"])}
    for kind in ("noun", "caption", "image", "word")
)
FORMS = tuple(dict.fromkeys([*_NOUN_FORMS, *_CAPTION_FORMS]))


class Turn(TypedDict):
    """One chat message."""

    role: str
    content: str


class Dialogue(TypedDict):
    """One dialogue. See `things.split_of` for the meaning of `group`."""

    dialogue_id: str
    form: str
    turns: list[Turn]
    target_text: str
    target_kind: str
    target_synset: str
    target_picture: str
    lexname: str
    group: str
    license: str


def make_dialogue(thing: Thing, others: Sequence[Thing], *, seed: int, number: int) -> Dialogue | None:
    """Makes a dialogue about a thing, or returns None if no form of it is possible without naming the thing.

    Args:
        thing: What the dialogue is about.
        others: Things of the same split, which early turns may be about.
        seed, number: Together with the id of the thing, they determine all random choices.
    """
    rng = random.Random(f"{seed}:{thing.thing_id}:{number}")
    weights = _form_weights(thing)
    for _ in range(_TRIES):
        form = rng.choices(list(weights), list(weights.values()))[0]
        try:
            texts, target, kind = _speak(form, thing, others, rng)
        except NothingLeft:
            continue
        typing = Typing(rng), Typing(rng)
        texts = [typing[position % 2](text) for position, text in enumerate(texts)]
        if 2 <= len(texts) <= forms.MOST_TURNS and not any(says(text, thing.hidden) for text in texts):
            break
    else:
        return None
    image = rng.choice(thing.images) if thing.images else ("", "")
    if kind == "title" and image[1] and rng.random() < 0.5:
        target = " ".join(image[1].split())
    return dialogue_of(thing, f"{form}/{thing.thing_id}/{number}", texts, target, kind, image[0])


def dialogue_of(
    thing: Thing, dialogue_id: str, texts: Sequence[str], target: str, kind: str, image_id: str
) -> Dialogue:
    """Returns the record of a dialogue about a thing. Its id begins with the form, and the user speaks first."""
    return Dialogue(
        dialogue_id=dialogue_id,
        form=dialogue_id.partition("/")[0],
        turns=[Turn(role=("user", "assistant")[place % 2], content=text) for place, text in enumerate(texts)],
        target_text=target,
        target_kind=kind,
        target_synset=thing.synset_id,
        target_picture=image_id,
        lexname=thing.lexname,
        group=thing.group,
        license=thing.license,
    )


def _form_weights(thing: Thing) -> dict[str, int]:
    if thing.part_of_speech != "noun":
        return _WORD_FORMS
    if thing.caption:
        return _CAPTION_FORMS
    return _NOUN_FORMS if thing.synset_id else _IMAGE_FORMS


def _speak(form: str, thing: Thing, others: Sequence[Thing], rng: random.Random) -> tuple[list[str], str, str]:
    """Returns the messages, their target text and its kind: title, gloss or sentence."""
    talk = Talk(thing, rng, with_definition=form != "definition")
    if form == "sentence":
        turns, full = forms.sentence(talk)
        return turns, full, "sentence"
    if form == "topic_switch":
        other = rng.choice(others)
        if other.group == thing.group:
            raise NothingLeft
        turns = forms.topic_switch(talk, Talk(other, rng))
    else:
        turns = getattr(forms, form)(talk)
    if form not in ("reverse_dictionary", "definition") and not talk.is_told:
        raise NothingLeft
    if form == "definition" or (
        thing.gloss and thing.synset_id and form != "reverse_dictionary" and rng.random() < _GLOSS_SHARE
    ):
        return turns, thing.gloss, "gloss"
    return (turns, thing.caption, "sentence") if thing.caption else (turns, thing.title, "title")
