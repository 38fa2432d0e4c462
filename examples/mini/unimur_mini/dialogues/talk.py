"""The facts and phrases of one dialogue; each fact is used once."""

from __future__ import annotations

import random
from collections.abc import Sequence

from .glosses import article, is_plural, with_article
from .phrases import PHRASES, SLOTS
from .stems import content_stems
from .things import Thing


class NothingLeft(Exception):
    """The thing has too little to be told in this form."""


_JOINTS = (", and ", ". ", ", also ", "; ", ". Also, ", " and ", ". Oh, and ", ", plus ", ". And ", " - ")
_OBJECTS = {"it": "it", "he": "him", "she": "her"}
# Facts that make up for a definition.
_ENOUGH = 3
_PERSON_HINTS = {"she": ("woman", "girl", "female", "wife", "mother"), "he": ("man", "boy", "male", "husband")}


class Talk:
    """Draws facts, phrases and wrong guesses for one dialogue; `with_definition=False` leaves the definition out,
    where it is the target itself."""

    def __init__(self, thing: Thing, rng: random.Random, *, with_definition: bool = True) -> None:
        self.thing, self.rng = thing, rng
        self.it = self._pronoun()
        self._slots = {name: rng.choice(values) for name, values in SLOTS.items()}
        self._told_noun = self._choose_definition() if with_definition else ""
        self._defining = self._definition() if self._told_noun else ""
        self._used: set[str] = set()
        self._facts = self._order_facts()
        self._enough = len(self._facts) > 1
        self._said: list[str] = []
        self._wrong = list(thing.siblings)
        rng.shuffle(self._wrong)

    def choose(self, templates: Sequence[str], **slots: str) -> str:
        """A template, not one of those used before in this dialogue, with its slots filled."""
        fresh = [template for template in templates if template not in self._used] or list(templates)
        template = self.rng.choice(fresh)
        self._used.add(template)
        return template.format(**{"it": "it", **self._slots, **slots})

    def _drawn(self, section: str, **slots: str) -> str:
        """A template of a section, whether it was used before or not, with its slots filled."""
        return self.rng.choice(PHRASES[section]).format(**slots)

    def fact(self) -> str:
        """One clause about the thing. Raises NothingLeft where everything was said."""
        if not self._facts:
            raise NothingLeft
        self._said.append(self._facts.pop())
        return self._said[-1]

    def facts(self, count: int) -> str:
        """Up to `count` clauses as one message; at least one."""
        clauses = [self.fact()]
        while len(clauses) < count and self._facts:
            clauses.append(self.fact())
        return self.joined(clauses)

    def joined(self, clauses: Sequence[str]) -> str:
        """Clauses in one message."""
        text = clauses[0]
        for clause in clauses[1:]:
            text = text + self.rng.choice(_JOINTS) + clause
        return text

    def tell(self, *, most: int = 2) -> str:
        """A message that tells one fact or more, with or without words around it."""
        return self.dressed(self.facts(self.rng.randint(1, most)))

    def dressed(self, text: str) -> str:
        """The text with a filler before or behind it, now and then."""
        if self.rng.random() < 0.25:
            text = f"{self.choose(PHRASES['fillers'])}, {text}"
        if self.rng.random() < 0.12:
            text = f"{text}, {self.choose(PHRASES['tails'])}"
        return text

    def greeted(self, text: str) -> str:
        """The text of a first turn, sometimes behind a greeting."""
        return (
            f"{self.choose(PHRASES['greetings'])}{self.rng.choice([', ', '! ', '. ', ' '])}{text}"
            if self.rng.random() < 0.3
            else text
        )

    def wrong(self) -> tuple[str, str]:
        """Something of the same kind that is not meant: (bare, with its article). Raises NothingLeft where nothing is
        known."""
        if not self._wrong:
            raise NothingLeft
        name = self._wrong.pop()
        return name, self._named(name)

    @property
    def left(self) -> int:
        """How many facts were not said."""
        return len(self._facts)

    @property
    def is_told(self) -> bool:
        """Whether the definition was told, its beginning with something else, or a few facts in its place."""
        if not self._defining:
            return len(self._said) >= _ENOUGH
        whole = self._told_noun == self.thing.definition or not self._enough
        return self._defining in self._said and (whole or len(self._said) > 1)

    def _named(self, name: str) -> str:
        return name if self.thing.lexname == "noun.substance" else with_article(name)

    def _pronoun(self) -> str:
        if self.thing.lexname != "noun.person":
            return "it"
        words = set(self.thing.gloss.casefold().split())
        for pronoun, hints in _PERSON_HINTS.items():
            if words.intersection(hints):
                return pronoun
        return self.rng.choice(["he", "she"])

    def _order_facts(self) -> list[str]:
        rng, thing = self.rng, self.thing
        facts = [self._filled(text) for text in thing.statements if not self._covers(text)]
        facts += self._kind_facts() + self._part_facts() + self._tag_facts()
        if thing.details:
            facts += [self._detail(text) for text in thing.details]
        if thing.usages and rng.random() < 0.6:
            facts.append(self.choose(PHRASES["usages"], usage=rng.choice(thing.usages)[0]))
        if thing.siblings and rng.random() < 0.4:
            near = self._named(rng.choice(thing.siblings))
            facts.append(self._drawn("near_facts", name=near, it=self.it, him=_OBJECTS[self.it]))
        rng.shuffle(facts)
        if self._defining:
            # Told last to first: mostly early, sometimes only at the end.
            facts.insert(len(facts) if rng.random() < 0.6 else rng.randint(0, len(facts)), self._defining)
        return facts

    def _choose_definition(self) -> str:
        """The whole definition, or only its beginning, so that the rest is told in other turns."""
        short = self.thing.short_definition
        return short if short and self.rng.random() < 0.5 else self.thing.definition

    def _covers(self, statement: str) -> bool:
        """Whether the definition that will be told says a statement already."""
        words = content_stems(statement.replace("{it_is}", "").replace("{it_has}", "").replace("{it}", ""))
        return len(words & content_stems(self._told_noun)) > 0.6 * len(words)

    def _definition(self) -> str:
        noun, it = self._told_noun, self.it
        if self.thing.part_of_speech != "noun":
            return f'it means "{noun}"'
        return self._drawn("definition_facts", it=it, noun=noun)

    def _filled(self, statement: str) -> str:
        it, rng = self.it, self.rng
        return statement.format(
            it=it, it_is=rng.choice([f"{it}'s", f"{it} is"]), it_has=rng.choice([f"{it} has", f"{it}'s got"])
        )

    def _kind_facts(self) -> list[str]:
        told = content_stems(self._told_noun)
        kinds = [
            kind for kind in self.thing.kinds[:3] if not (is_plural(kind.split()[-1]) or content_stems(kind) <= told)
        ]
        if not kinds:
            return []
        kind = self.rng.choice(kinds)
        return [self._drawn("kind_facts", it=self.it, name=kind)]

    def _part_facts(self) -> list[str]:
        thing, rng = self.thing, self.rng
        facts, place = [], "place_" if thing.lexname == "noun.location" else ""
        if thing.parts:
            names = [with_article(name) for name in rng.sample(thing.parts, min(2, len(thing.parts)))]
            facts.append(self._drawn(f"{place}part_facts", name=" and ".join(names)))
        if thing.wholes:
            whole = rng.choice(thing.wholes)
            the = whole if whole[0].isupper() else with_article(whole)
            facts.append(self._drawn(f"{place}whole_facts", name=the))
        return facts

    def _tag_facts(self) -> list[str]:
        tags = self.rng.sample(self.thing.tags, min(len(self.thing.tags), self.rng.randint(1, 3)))
        if not tags:
            return []
        words = ", ".join(tags[:-1]) + (" and " if len(tags) > 1 else "") + tags[-1]
        several = len(tags) > 1 or is_plural(tags[0].split()[-1])
        return [self._drawn("tag_facts", text=words, come="come" if several else "comes")]

    def _detail(self, text: str) -> str:
        first = text.split()[0]
        if first in ("of", "with", "in", "on", "at", "for", "from", "by", "inside", "under", "dancing", "holding"):
            return self._drawn("detail_facts", text=text)
        return self._drawn("quality_facts", text=text, a=article(text))
