"""The forms of a dialogue: who describes the thing, who asks, and which mistakes are made.

Every form returns alternating messages, of which the user's is the first. The reply to retrieve follows the last one.
"""

from __future__ import annotations

from .glosses import with_article
from .phrases import PHRASES
from .talk import NothingLeft, Talk

MOST_TURNS = 8


def chat(talk: Talk) -> list[str]:
    """Two people talk about the thing: one asks and the other tells, or one tells and the other reacts."""
    rng = talk.rng
    turns: list[str] = []
    if rng.random() < 0.5:
        turns.append(talk.greeted(talk.choose(PHRASES["ask_openers"])))
    else:
        turns.append(talk.greeted(talk.choose(PHRASES["tell_openers"], fact=talk.facts(rng.randint(1, 2)))))
        turns.append(_reply(talk))
    turns.append(talk.tell())
    for _ in range(rng.randint(0, 2)):
        if not talk.left:
            break
        turns += [_reply(talk), talk.tell()]
    if not talk.is_told and len(turns) < 4 and talk.left:
        turns += [_reply(talk), talk.tell(most=3)]
    return turns


def statements(talk: Talk) -> list[str]:
    """One side states facts in several messages, and the other one reacts. The last message may ask for the thing."""
    rng = talk.rng
    rounds = rng.randint(1, 3)
    turns = [talk.greeted(talk.dressed(talk.facts(rng.randint(1, 3))))]
    for number in range(rounds):
        turns.append(talk.choose(PHRASES["reactions"]) if rng.random() < 0.75 or not talk.left else _echo(talk))
        if not talk.left:
            turns.append(talk.choose(PHRASES["requests"]))
            break
        turns.append(talk.tell())
        if number == rounds - 1 and rng.random() < 0.4:
            turns[-1] = f"{turns[-1]}. {talk.choose(PHRASES['requests'])}"
    return turns


def question_answer(talk: Talk) -> list[str]:
    """Yes-no questions and open questions with their answers. Either side asks."""
    rng = talk.rng
    user_asks = rng.random() < 0.5
    turns = [] if user_asks else [talk.greeted(talk.choose(PHRASES["question_openers"]))]
    room = 3 if not user_asks else 4
    pairs = category_pairs(talk, rng.randint(1, room - 1))
    told = rng.randint(1, room - len(pairs))
    for _ in range(told):
        if talk.left:
            pairs.append((talk.choose(PHRASES["open_questions"], it=talk.it), talk.tell()))
    if rng.random() < 0.3:
        rng.shuffle(pairs)
    if user_asks:
        pairs[0] = (talk.greeted(f"{talk.choose(PHRASES['ask_first'])} {pairs[0][0]}"), pairs[0][1])
    for question, answer in pairs:
        turns += [question, answer]
    return turns


def guessing_game(talk: Talk) -> list[str]:
    """Hints and wrong guesses alternate."""
    rng = talk.rng
    turns = [talk.greeted(talk.choose(PHRASES["game_openers"], fact=talk.fact()))]
    for _ in range(rng.randint(1, 3)):
        if not talk.left:
            break
        if rng.random() < 0.7:
            _, name = talk.wrong()
            turns.append(talk.dressed(talk.choose(PHRASES["guesses"], name=name)))
            turns.append(f"{talk.choose(PHRASES['denials'], name=name)}. {talk.tell()}")
        else:
            turns += [talk.choose(PHRASES["follow_ups"]), talk.tell()]
    if len(turns) < 3:
        raise NothingLeft
    return turns


def distractor(talk: Talk) -> list[str]:
    """The thing is described. The answers name other things of its kind, and each is denied."""
    rng = talk.rng
    turns = [talk.greeted(talk.choose(PHRASES["tell_openers"], fact=talk.facts(rng.randint(1, 2))))]
    for _ in range(rng.randint(1, 3)):
        bare, name = talk.wrong()
        turns.append(
            talk.choose(PHRASES["guesses"] if rng.random() < 0.6 else PHRASES["given_wrong"], name=name, bare=bare)
        )
        denial = talk.choose(PHRASES["denials"], name=name)
        turns.append(f"{denial}, {talk.tell()}" if talk.left else f"{denial}. {talk.choose(PHRASES['requests'])}")
    return turns


def correction(talk: Talk) -> list[str]:
    """The speaker asks for another thing, gets it, and then says what was meant."""
    rng = talk.rng
    bare, name = talk.wrong()
    turns = [talk.greeted(talk.choose(PHRASES["asked_for_wrong"], name=name))]
    turns.append(talk.choose(PHRASES["given_wrong"], name=name, bare=bare))
    turns.append(talk.choose(PHRASES["corrections"], name=name, fact=talk.facts(rng.randint(1, 3))))
    for _ in range(rng.randint(0, 2)):
        if talk.left:
            turns += [_reply(talk), talk.tell()]
    if not talk.is_told and talk.left:
        turns[-1] = f"{turns[-1]}. {talk.facts(2)}"
    return turns


def topic_switch(talk: Talk, other: Talk) -> list[str]:
    """The first turns are small talk or about another thing. Only the last ones are about the thing."""
    rng = talk.rng
    if rng.random() < 0.4:
        turns = [talk.greeted(talk.choose(PHRASES["small_talk"])), talk.choose(PHRASES["small_answers"])]
        if rng.random() < 0.4:
            turns += [talk.choose(PHRASES["small_talk"]), talk.choose(PHRASES["small_answers"])]
    else:
        turns = [other.greeted(other.choose(PHRASES["tell_openers"], fact=other.facts(2)))]
        named = rng.random() < 0.6
        turns.append(with_article(other.thing.title) + "?" if named else other.choose(PHRASES["reactions"]))
        if named and rng.random() < 0.4:
            turns += ["yes, that's it", other.choose(PHRASES["reactions"])]
    turns.append(talk.choose(PHRASES["switches"], fact=talk.facts(rng.randint(1, 3))))
    if talk.left and rng.random() < 0.7:
        turns += [_reply(talk), talk.tell()]
    if talk.left and not talk.is_told:
        turns[-1] = f"{turns[-1]}. {talk.facts(2)}"
    return turns


def reverse_dictionary(talk: Talk) -> list[str]:
    """Asks "What is the word for ...?", with an exchange about the word."""
    rng, thing = talk.rng, talk.thing
    if not thing.definition:
        raise NothingLeft
    noun = thing.definition if thing.part_of_speech == "noun" or rng.random() < 0.3 else f'"{thing.definition}"'
    ask = talk.choose(PHRASES["word_openers"], noun=noun)
    usage = talk.choose(PHRASES["usages"], usage=rng.choice(thing.usages)[0]) if thing.usages else ""
    about = talk.choose(PHRASES[f"word_classes.{thing.part_of_speech}"])
    roll = rng.random()
    if roll < 0.3 and usage:
        return [talk.greeted(ask), usage + "?"]
    if roll < 0.6:
        answer = talk.joined([about, usage]) if usage else about
        return [talk.greeted(ask), talk.choose(PHRASES["word_questions"]), talk.dressed(answer)]
    if roll < 0.8:
        where = talk.choose(PHRASES["word_places"])
        opener = talk.greeted(f"I'm looking for a word, {about} {where}")
        return [
            opener,
            talk.choose(PHRASES["word_questions"][3:]),
            talk.joined([talk.dressed(f"it means {noun}"), usage]) if usage else talk.dressed(f"it means {noun}"),
        ]
    return [
        talk.greeted(ask),
        talk.choose(PHRASES["reactions"]),
        usage or f"{about}. {talk.choose(PHRASES['requests'][-5:])}",
    ]


def sentence(talk: Talk) -> tuple[list[str], str]:
    """Talk about an example sentence whose word is left out. Returns the messages and the whole sentence."""
    rng, thing = talk.rng, talk.thing
    if not thing.usages or not thing.definition:
        raise NothingLeft
    masked, full = rng.choice(thing.usages)
    meaning = thing.definition if thing.part_of_speech == "noun" else f'"{thing.definition}"'
    ask = talk.choose(PHRASES["gap_openers"], text=masked)
    means = talk.choose(PHRASES["gap_meanings"], noun=meaning)
    turns = [talk.greeted(ask), talk.choose([*PHRASES["gap_questions"], *PHRASES["follow_ups"][:6]]), means]
    if rng.random() < 0.3:
        turns += [talk.choose(PHRASES["reactions"]), talk.choose(PHRASES["gap_requests"])]
    return turns, full


def caption(talk: Talk) -> list[str]:
    """Questions about an image and their answers, as in visual dialogue. The target is the caption of the image."""
    rng = talk.rng
    turns = [talk.greeted(talk.choose(PHRASES["image_questions"])), talk.tell()]
    for question, answer in category_pairs(talk, rng.randint(0, 2)):
        turns += [question, answer]
    while talk.left and len(turns) < MOST_TURNS and (not talk.is_told or rng.random() < 0.6):
        turns += [talk.choose(PHRASES["detail_questions"]), talk.tell()]
    return turns


def definition(talk: Talk) -> list[str]:
    """A chat whose target is the gloss. It tells everything except the definition."""
    if talk.left < 3:
        raise NothingLeft
    turns = [talk.greeted(talk.choose(PHRASES["tell_openers"], fact=talk.facts(2)))]
    while talk.left and len(turns) < 5:
        turns += [_reply(talk), talk.tell()]
    if len(turns) < 3:
        turns += [_reply(talk), talk.choose(PHRASES["definition_requests"])]
    return turns


def _reply(talk: Talk) -> str:
    """Returns a reply of the other side: a question, a short reaction, or a fact as a question."""
    roll = talk.rng.random()
    if roll < 0.12 and talk.left > 1:
        return _echo(talk)
    return talk.choose(PHRASES["follow_ups"], it=talk.it) if roll < 0.55 else talk.choose(PHRASES["reactions"])


def _echo(talk: Talk) -> str:
    return talk.choose(PHRASES["echoes"], fact=talk.fact())


def category_pairs(talk: Talk, count: int) -> list[tuple[str, str]]:
    """Returns questions about the kind of thing and their true answers, at most one of which is yes."""
    rng, answers = talk.rng, talk.thing.categories
    right = [asked for asked, yes in answers.items() if yes]
    wrong = [asked for asked, yes in answers.items() if not yes]
    rng.shuffle(right)
    chosen = rng.sample(wrong, min(count, len(wrong)))
    if right and chosen:
        chosen[rng.randrange(len(chosen)) if rng.random() < 0.3 else -1] = right[0]
    pairs = []
    for asked in chosen:
        answer = talk.choose(PHRASES["yes"] if answers[asked] else PHRASES["no"])
        if talk.left > 1 and rng.random() < 0.4:
            answer = f"{answer}, {talk.fact()}"
        pairs.append((talk.choose(PHRASES["category_questions"], category=asked), answer))
    return pairs
