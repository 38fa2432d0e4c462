"""The facts and phrases of one dialogue. Each fact is used once."""

from __future__ import annotations

import random
from collections.abc import Sequence

from .glosses import article, is_plural, with_article
from .phrases import PHRASES, SLOTS
from .stems import content_stems
from .things import Thing


class NothingLeft(Exception):
    """Too little is known about the thing for this form."""


_JOINTS = (", and ", ". ", ", also ", "; ", ". Also, ", " and ", ". Oh, and ", ", plus ", ". And ", " - ")
_OBJECTS = {"it": "it", "he": "him", "she": "her"}
# Number of facts that can replace a definition.
_ENOUGH = 3
_PERSON_HINTS = {"she": ("woman", "girl", "female", "wife", "mother"), "he": ("man", "boy", "male", "husband")}


class Talk:
    """Draws facts, phrases and wrong guesses for one dialogue.

    `with_definition=False` leaves the definition out, for dialogues whose target it is.
    """

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
        """Fills the slots of a template that this dialogue has not used before."""
        fresh = [template for template in templates if template not in self._used] or list(templates)
        template = self.rng.choice(fresh)
        self._used.add(template)
        return template.format(**{"it": "it", **self._slots, **slots})

    def _drawn(self, section: str, **slots: str) -> str:
        """Fills the slots of a template of a section, which may have been used before."""
        return self.rng.choice(PHRASES[section]).format(**slots)

    def fact(self) -> str:
        """Returns a clause about the thing. Raises NothingLeft if everything was said."""
        if not self._facts:
            raise NothingLeft
        self._said.append(self._facts.pop())
        return self._said[-1]

    def facts(self, count: int) -> str:
        """Returns a message of at least one and up to `count` clauses."""
        clauses = [self.fact()]
        while len(clauses) < count and self._facts:
            clauses.append(self.fact())
        return self.joined(clauses)

    def joined(self, clauses: Sequence[str]) -> str:
        """Joins clauses to one message."""
        text = clauses[0]
        for clause in clauses[1:]:
            text = text + self.rng.choice(_JOINTS) + clause
        return text

    def tell(self, *, most: int = 2) -> str:
        """Returns a message with one or more facts, with or without filler words."""
        return self.dressed(self.facts(self.rng.randint(1, most)))

    def dressed(self, text: str) -> str:
        """Returns the text, sometimes with filler words before or after it."""
        if self.rng.random() < 0.25:
            text = f"{self.choose(PHRASES['fillers'])}, {text}"
        if self.rng.random() < 0.12:
            text = f"{text}, {self.choose(PHRASES['tails'])}"
        return text

    def greeted(self, text: str) -> str:
        """Returns the text of a first turn, sometimes after a greeting."""
        return (
            f"{self.choose(PHRASES['greetings'])}{self.rng.choice([', ', '! ', '. ', ' '])}{text}"
            if self.rng.random() < 0.3
            else text
        )

    def wrong(self) -> tuple[str, str]:
        """Returns the name of another thing of the same kind, without and with its article.

        Raises:
            NothingLeft: if no such thing is known.
        """
        if not self._wrong:
            raise NothingLeft
        name = self._wrong.pop()
        return name, self._named(name)

    @property
    def left(self) -> int:
        """The number of facts that were not said."""
        return len(self._facts)

    @property
    def is_told(self) -> bool:
        """Whether the definition was told, or its beginning and another fact, or a few facts instead of it."""
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
            # Facts are told from last to first, so the definition mostly comes early and sometimes at the end.
            facts.insert(len(facts) if rng.random() < 0.6 else rng.randint(0, len(facts)), self._defining)
        return facts

    def _choose_definition(self) -> str:
        """Returns the whole definition, or only its beginning, so that other turns tell the rest."""
        short = self.thing.short_definition
        return short if short and self.rng.random() < 0.5 else self.thing.definition

    def _covers(self, statement: str) -> bool:
        """Returns whether the chosen definition already contains a statement."""
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
