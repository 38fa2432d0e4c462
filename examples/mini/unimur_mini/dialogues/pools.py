"""Selects the things that dialogues are about, and the number of dialogues of each kind."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from .glosses import plain
from .lexicon import CONCRETE, Lexicon, plain_name
from .stems import content_stems
from .things import Thing, caption_thing, head_noun, image_thing, image_words, synset_thing

# Largest share of a lexical field in a pool, so that no field dominates it.
LARGEST_LEXNAME_SHARE = 0.3
# Number of words of sentences and glosses that are used as captions.
_FEWEST_WORDS, _MOST_WORDS = 5, 20
# Titles that are file names, codes or remarks.
_ODD_TITLE = re.compile(r"[_#@\d]|\b(?:the letter|letter|kanji|flag of|sign for)\b", re.I)
_BRACKETS = re.compile(r"\s*\([^()]*\)")
_LONE_LETTER = re.compile(r"\b[b-zB-HJ-Z]\b(?!')")
# Clock faces, which have the name of a flower.
_CLOCK = re.compile(r"o\Wclock", re.I)
# A sentence of a stamp that describes the image, and does not state a fact about its subject.
_NOUN_PHRASE = re.compile(
    r"(?:an?|the|some|two|three) (?!.*\b(?:is|are|was|were|has|have|had|can|stands?|you)\b)", re.I
)
# Icons of programs and smileys are named after things that they do not show.
_NAMED_FOR_ELSE = content_stems("applications smilies appicon software")


@dataclass(frozen=True)
class Pool:
    """Things of one kind: `linked` (a synset that is the title of images), `image`, `noun` or `word`.

    Args:
        things: The things, in the order in which they are used.
        share: Share of the pool in all dialogues.
        rounds: Maximum number of dialogues about one thing.
    """

    name: str
    things: Sequence[Thing]
    share: float
    rounds: int


def link_images(lexicon: Lexicon, images: Iterable[dict]) -> tuple[dict[str, list[dict]], list[dict]]:
    """Returns the images by the synset whose first noun sense is their title, and the images without a synset.

    Images that show another sense of their title are in neither.
    """
    linked: dict[str, list[dict]] = {}
    rest: list[dict] = []
    by_name: dict[str, list[dict]] = {}
    for image in images:
        if (
            plain_name(image["title"])
            and not _CLOCK.search(image["title"])
            and not _NAMED_FOR_ELSE & content_stems(image_words(image))
        ):
            by_name.setdefault(plain_name(image["title"]), []).append(image)
    for same in by_name.values():
        key = lexicon.noun_of_title(same[0]["title"])
        filed = content_stems(" ".join(map(image_words, same)))
        if not key:
            rest += same
        elif not lexicon.is_disputed(same[0]["title"], filed):
            linked.setdefault(key, []).extend(same)
    return linked, rest


def make_pools(lexicon: Lexicon, images: Sequence[dict], rng: random.Random, *, most: int) -> list[Pool]:
    """Builds all pools of things to talk about.

    `most` limits the number of things in the pools of nouns and of other words, because building them takes a while.
    """
    linked, rest = link_images(lexicon, images)
    keys = [key for key in sorted(linked) if not lexicon.is_ambiguous(key)]
    rng.shuffle(keys)
    rng.shuffle(rest)
    nouns = [key for key in lexicon.synsets if key not in linked and _is_common_noun(lexicon, key)]
    words = [key for key in lexicon.synsets if _is_common_word(lexicon, key)]
    rng.shuffle(nouns)
    rng.shuffle(words)
    nouns.sort(key=lambda key: lexicon.familiarity(key) == 0)
    words.sort(key=lambda key: lexicon.familiarity(key) == 0)
    return [
        Pool("linked", _useful(synset_thing(lexicon, key, linked[key]) for key in keys), 0.40, 14),
        Pool("image", _useful(_image_things(lexicon, rest)), 0.10, 5),
        Pool("word", _useful((synset_thing(lexicon, key) for key in words), most // 5 + 1), 0.11, 1),
        Pool("noun", _useful((synset_thing(lexicon, key) for key in nouns), most), 0.39, 3),
    ]


def make_question_pools(lexicon: Lexicon, images: Sequence[dict], rng: random.Random, *, most: int) -> list[Pool]:
    """Builds the pools for dialogues of questions: captions of images, things to guess, sentences and glosses."""
    linked, _ = link_images(lexicon, images)
    keys = [key for key in sorted(linked) if not lexicon.is_ambiguous(key)]
    nouns = [key for key in lexicon.synsets if key not in linked and _is_common_noun(lexicon, key)]
    spoken = [key for key, row in lexicon.synsets.items() if row["examples"]]
    for some in (keys, nouns, spoken):
        rng.shuffle(some)
    nouns.sort(key=lambda key: lexicon.familiarity(key) == 0)
    captions = list(_caption_things(lexicon, images))
    rng.shuffle(captions)
    return [
        Pool("image", captions, 0.20, 4),
        Pool("linked", _useful(synset_thing(lexicon, key, linked[key]) for key in keys), 0.15, 4),
        Pool("noun", _useful((synset_thing(lexicon, key) for key in nouns), most // 4 + 1), 0.10, 1),
        Pool("gloss", list(islice(_gloss_things(lexicon, [*keys, *nouns]), most)), 0.25, 1),
        Pool("sentence", list(islice(_example_things(lexicon, spoken), most)), 0.30, 2),
    ]


def _caption_things(lexicon: Lexicon, images: Iterable[dict]) -> Iterator[Thing]:
    for image in images:
        title = image["title"]
        caption = _usable_caption(image) or _BRACKETS.sub("", title)
        odd = _ODD_TITLE.search(title) or _ODD_TITLE.search(caption) or _LONE_LETTER.search(caption)
        if odd or len(caption.split()) < 3 or not caption.isascii():
            continue
        noun = head_noun(lexicon, title)
        key = lexicon.noun_of_title(noun) if noun else ""
        yield caption_thing(
            lexicon,
            f"{image['image_id']}/caption",
            caption,
            [title],
            key=key if key and not lexicon.is_disputed(noun, content_stems(image_words(image))) else "",
            images=[image],
            license=image["license"],
        )


def _gloss_things(lexicon: Lexicon, keys: Iterable[str]) -> Iterator[Thing]:
    for key in keys:
        row = lexicon.synsets[key]
        gloss = "; ".join(plain(row["gloss"]))
        if _FEWEST_WORDS <= len(gloss.split()) <= _MOST_WORDS:
            yield caption_thing(lexicon, f"{key}/gloss", gloss, row["lemmas"], key=key, license=row["license"])


def _example_things(lexicon: Lexicon, keys: Iterable[str]) -> Iterator[Thing]:
    for key in keys:
        row = lexicon.synsets[key]
        example = max(row["examples"], key=len)
        if _FEWEST_WORDS <= len(example.split()) <= _MOST_WORDS:
            yield caption_thing(lexicon, f"{key}/example", example, row["lemmas"], license=row["license"])


def take(pool: Pool, split: str, count: int) -> Iterator[tuple[Thing, int]]:
    """Yields up to `count` (thing, round) of one split. Every thing is used once before any is used twice."""
    things = [thing for thing in pool.things if thing.split == split]
    most = LARGEST_LEXNAME_SHARE * count if pool.name in ("linked", "noun") else count
    taken: Counter[str] = Counter()
    for number in range(pool.rounds):
        for thing in things:
            if taken.total() >= count:
                return
            if taken[thing.lexname] < most:
                taken[thing.lexname] += 1
                yield thing, number


def _is_common_noun(lexicon: Lexicon, key: str) -> bool:
    row = lexicon.synsets[key]
    name = lexicon.common_name(key)
    return (
        row["lexname"] in CONCRETE
        and row["sense_numbers"][0] == 1
        and name.islower()
        and len(name.split()) <= 3
        and not row["instance_hypernyms"]
        and not lexicon.is_ambiguous(key)
    )


def _is_common_word(lexicon: Lexicon, key: str) -> bool:
    row = lexicon.synsets[key]
    usable = row["part_of_speech"] != "noun" and row["lexname"] != "adj.pert" and not lexicon.is_ambiguous(key)
    return usable and row["sense_numbers"][0] <= 2 and lexicon.common_name(key).islower()


def _image_things(lexicon: Lexicon, images: Iterable[dict]) -> Iterator[Thing]:
    for image in images:
        if not _ODD_TITLE.search(image["title"]) and len(image["title"].split()) <= 8:
            thing = image_thing(lexicon, {**image, "description": _usable_caption(image)})
            if thing is not None:
                yield thing


def _usable_caption(image: dict) -> str:
    text = " ".join(image["description"].split())
    foreign = not text.isascii() or re.search(r"https?:|www\.|[@_#<>]", text)
    # Sentences of stamps describe their image. Descriptions of clip art are mostly about the file.
    if image["source"] != "stamps" or foreign or not 3 <= len(text.split()) <= 20:
        return ""
    return text if _NOUN_PHRASE.match(text) else ""


def _useful(things: Iterable[Thing], most: int | None = None) -> list[Thing]:
    return list(islice(filter(_can_be_told, things), most))


def _can_be_told(thing: Thing) -> bool:
    if not all(map(content_stems, thing.names)):
        # Names such as "one" or "US" cannot be avoided in a dialogue.
        return False
    if thing.part_of_speech != "noun":
        return bool(thing.definition)
    told = len(thing.statements) + len(thing.details) + bool(thing.kinds) + bool(thing.tags) + bool(thing.parts)
    return bool(thing.definition) + told >= 2 or (len(thing.tags) >= 3 and bool(thing.kinds))
