"""Dialogues of five to ten rounds about one thing, each of which is a question and its answer."""

from __future__ import annotations

import random
from collections.abc import Sequence

from .builder import Dialogue, dialogue_of
from .captions import Piece
from .forms import category_pairs
from .glosses import article, is_plural
from .phrases import PHRASES
from .stems import content_stems, says
from .surface import Typing
from .talk import NothingLeft, Talk
from .things import Thing

FEWEST_ROUNDS, MOST_ROUNDS = 5, 10
# Share of the dialogues with all ten rounds.
_LONGEST_SHARE = 0.6
# Largest share of a caption's words in one message.
_MOST_SAID = 0.6
_TRIES = 8
Round = tuple[str, str]


def make_questions(thing: Thing, others: Sequence[Thing], *, seed: int, number: int) -> Dialogue | None:
    """Makes a dialogue of questions and answers.

    Args:
        thing: What the dialogue is about. If it has pieces of a caption, the caption is the target. Otherwise the
            thing is to be guessed and is not named.
        others: Things of the same split, whose pieces are the subjects of questions that have no answer.
        seed, number: Together with the id of the thing, they determine all random choices.

    Returns:
        The dialogue, or None if too little is known about the thing or a message would contain most of the caption.
    """
    rng = random.Random(f"{seed}:questions:{thing.thing_id}:{number}")
    for _ in range(_TRIES):
        talk = Talk(thing, rng)
        count = MOST_ROUNDS if rng.random() < _LONGEST_SHARE else rng.randint(FEWEST_ROUNDS, MOST_ROUNDS)
        try:
            rounds = _about_caption(talk, others, count) if thing.caption else _guessing(talk, count)
        except NothingLeft:
            continue
        typing = Typing(rng), Typing(rng)
        texts = [typing[place](text) for pair in rounds for place, text in enumerate(pair)]
        if not any(_gives_away(text, thing) for text in texts):
            break
    else:
        return None
    form = "caption_questions" if thing.caption else "twenty_questions"
    target, kind = (thing.caption, "caption") if thing.caption else (thing.title, "title")
    image_id = rng.choice(thing.images)[0] if thing.images else ""
    return dialogue_of(thing, f"{form}/{thing.thing_id}/{number}", texts, target, kind, image_id)


def _gives_away(text: str, thing: Thing) -> bool:
    if not thing.caption:
        return says(text, thing.hidden)
    words = content_stems(thing.caption)
    return len(words & content_stems(text)) > max(1, _MOST_SAID * len(words))


def _guessing(talk: Talk, count: int) -> list[Round]:
    """Returns rounds of yes-no questions, wrong guesses and facts. The last rounds tell most."""
    rng = talk.rng
    wrong = rng.randint(0, min(2, len(talk.thing.siblings)))
    told = rng.randint(2, 4)
    rounds = category_pairs(talk, max(count - wrong - told, 1))
    for _ in range(wrong):
        _, name = talk.wrong()
        rounds.append((f"is {talk.it} {name}?", talk.choose(PHRASES["no"])))
    rng.shuffle(rounds)
    while talk.left and len(rounds) < count:
        rounds.append((talk.choose(PHRASES["open_questions"], it=talk.it), talk.tell()))
    if not talk.is_told or len(rounds) < FEWEST_ROUNDS:
        raise NothingLeft
    return _opened(talk, rounds)


def _about_caption(talk: Talk, others: Sequence[Thing], count: int) -> list[Round]:
    """Returns a round for each piece of a caption, among unanswered questions. Mostly the first piece comes first."""
    rng, thing = talk.rng, talk.thing
    words = content_stems(thing.caption)
    if len(words) < 2 or len(thing.pieces) < 2:
        raise NothingLeft
    first, *rest = thing.pieces[: count - 1]
    rng.shuffle(rest)
    rounds = [_asked(talk, piece) for piece in rest]
    in_vain = rng.sample(others, min(len(others), 2 * MOST_ROUNDS))
    known = (
        category_pairs(talk, min(2, count - 1 - len(rounds))) if thing.categories and len(rounds) < count - 1 else []
    )
    while len(rounds) + len(known) < count - 1:
        known.append(_in_vain(talk, in_vain, words))
    for pair in known:
        rounds.insert(rng.randint(0, len(rounds)), pair)
    rounds.insert(0 if rng.random() < 0.7 else rng.randint(0, len(rounds)), _asked(talk, first))
    return _opened(talk, rounds)


def _asked(talk: Talk, piece: Piece) -> Round:
    """Returns a question that a piece answers, or a question that contains the piece and is answered by yes."""
    rng = talk.rng
    polar = _polar(talk, piece) if rng.random() < 0.4 else ""
    if polar:
        return polar, talk.choose(PHRASES["yes"])
    question = talk.choose(PHRASES[f"piece_questions.{piece.kind}"], noun=piece.noun)
    return question, talk.choose(PHRASES["piece_answers"], text=piece.text)


def _polar(talk: Talk, piece: Piece) -> str:
    """Returns a yes-no question that contains the piece, or an empty string if there is none."""
    templates = PHRASES.get(f"polar_questions.{piece.kind}", ())
    templates = [template for template in templates if piece.noun or "{noun}" not in template]
    if not templates:
        return ""
    said = piece.noun if piece.kind in ("where", "having") and piece.noun else piece.text
    some = "any" if is_plural(said.split()[-1]) else article(said)
    text = talk.choose(templates, a=some, text=piece.text, noun=piece.noun)
    return text.replace("is there any ", "are there any ") if some == "any" else text


def _in_vain(talk: Talk, others: list[Thing], words: frozenset[str]) -> Round:
    """Returns a question about something else, or one whose answer is unknown."""
    rng = talk.rng
    pieces = [piece for other in others[:3] for piece in other.pieces]
    others[:] = others[3:]
    rng.shuffle(pieces)
    for piece in pieces:
        question = _polar(talk, piece)
        if question and rng.random() < 0.6 and not content_stems(question) & words:
            return question, talk.choose(PHRASES["no"])
    for _ in range(_TRIES):
        question = talk.choose(PHRASES["general_questions"])
        if not content_stems(question) & words:
            return question, talk.choose(PHRASES["unsure"] if rng.random() < 0.5 else PHRASES["no"])
    raise NothingLeft


def _opened(talk: Talk, rounds: list[Round]) -> list[Round]:
    if talk.rng.random() < 0.4:
        question, answer = rounds[0]
        rounds[0] = (talk.greeted(f"{talk.choose(PHRASES['ask_first'])} {question}"), answer)
    return rounds
