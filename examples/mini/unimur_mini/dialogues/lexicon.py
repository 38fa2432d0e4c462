"""WordNet queries of the dialogues: hypernyms, siblings and common names of a noun."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from modeling_unimur.data.titles import normalise_title

from ..wordnet import Synset
from .phrases import WORDS, word_list
from .stems import hidden_stems, stem

# Kinds that are too general, or that nobody mentions.
_EMPTY_KINDS = frozenset(" ".join(WORDS["kinds without meaning"]).split(", "))
# Lexical fields of concrete nouns.
CONCRETE = frozenset(f"noun.{name}" for name in word_list("concrete fields"))
# These fields, and that of places.
VISIBLE = CONCRETE | {"noun.location"}
# The category that a question asks for, and the synset (by its first noun sense) that determines the answer.
CATEGORIES: dict[str, str] = dict(line.split(" = ") for line in WORDS["categories"])
_LETTERS = re.compile(r"[^\W\d_]+")


def plain_name(name: str) -> str:
    """Returns a name in lower case without punctuation. Plurals are kept: "Ice-cream cone" -> "ice cream cone"."""
    return " ".join(_LETTERS.findall(name.casefold().replace("'s", "").replace("_", " ")))


class Lexicon:
    """Looks up synsets, which are rows of `wordnet.load_wordnet`, by id and by name."""

    def __init__(self, synsets: Iterable[Synset]) -> None:
        self.synsets = {row["synset_id"]: row for row in synsets}
        self.first_noun: dict[str, str] = {}
        self.noun_senses: dict[str, list[str]] = {}
        self.hyponyms: dict[str, list[str]] = {}
        self._glosses = Counter(row["gloss"] for row in self.synsets.values())
        for key, row in self.synsets.items():
            for above in row["hypernyms"]:
                self.hyponyms.setdefault(above, []).append(key)
            if row["part_of_speech"] != "noun":
                continue
            for lemma, number in zip(row["lemmas"], row["sense_numbers"], strict=True):
                self.noun_senses.setdefault(plain_name(lemma), []).append(key)
                if number == 1:
                    self.first_noun.setdefault(plain_name(lemma), key)
        self._categories = {
            asked: self.first_noun[lemma] for asked, lemma in CATEGORIES.items() if lemma in self.first_noun
        }
        self._above: dict[str, frozenset[str]] = {}

    def noun_of_title(self, title: str) -> str:
        """Returns the synset whose first noun sense the title names, possibly in the plural, or an empty string."""
        return self.first_noun.get(plain_name(title)) or self.first_noun.get(normalise_title(title), "")

    def is_disputed(self, title: str, words: frozenset[str]) -> bool:
        """Returns whether an image seems to show another sense of its title than the first one.

        `words` are stems of its tags and folders. They support a sense if they name something that it is a kind of.
        """
        first = self.noun_of_title(title)
        name = plain_name(title) if plain_name(title) in self.first_noun else normalise_title(title)
        others = [key for key in self.noun_senses.get(name, []) if key != first]
        field, fields = self.synsets[first]["lexname"], {self.synsets[key]["lexname"] for key in others}
        if field not in VISIBLE and fields & CONCRETE:
            return True
        if field == "noun.person" and fields & CONCRETE - {field} and stem("person") not in words:
            # For words such as skunk, router or taco, the first sense in WordNet is a person.
            return True
        return not self._kind_stems(first) & words and any(self._kind_stems(key) & words for key in others)

    def _kind_stems(self, key: str) -> frozenset[str]:
        above = [other for other in self.ancestors(key) if other in self.synsets and other != key]
        return hidden_stems(lemma for other in above for lemma in self.synsets[other]["lemmas"])

    def is_ambiguous(self, key: str) -> bool:
        """Returns whether another synset has the same gloss, so that nobody could tell the two apart."""
        return self._glosses[self.synsets[key]["gloss"]] > 1

    def ancestors(self, key: str) -> frozenset[str]:
        """Returns the ids of the synset and of everything that it is a kind of."""
        if key not in self._above:
            self._above[key] = frozenset({key})
            row = self.synsets.get(key)
            over = [*row["hypernyms"], *row["instance_hypernyms"]] if row else []
            self._above[key] = frozenset({key}).union(*(self.ancestors(above) for above in over))
        return self._above[key]

    def categories(self, key: str) -> dict[str, bool]:
        """Returns the answers of the entries of `CATEGORIES` that have a clear answer for a noun."""
        above = self.ancestors(key)
        answers = {asked: synset in above for asked, synset in self._categories.items()}
        if answers.get("a person"):
            answers.pop("an animal", None)
            answers.pop("a mammal", None)
        if answers.get("a plant") or answers.get("an animal"):
            answers = {asked: yes for asked, yes in answers.items() if yes or asked != "something to eat"}
        if answers.get("something to eat") and not answers.get("a plant"):
            answers = {asked: yes for asked, yes in answers.items() if yes or asked not in ("a plant", "an animal")}
        if answers.get("a vehicle"):
            answers.pop("a container", None)
        if answers.get("something to drink"):
            answers.pop("something to eat", None)
        if answers.get("part of a body"):
            answers = {asked: yes for asked, yes in answers.items() if yes or asked not in ("an animal", "a person")}
        return answers

    def common_name(self, key: str) -> str:
        """Returns the most frequent lemma of a synset, or the first one."""
        row = self.synsets[key]
        counts = row["sense_counts"]
        return row["lemmas"][counts.index(max(counts))]

    def familiarity(self, key: str) -> int:
        """Returns how often the synset occurs in WordNet's tagged texts."""
        return sum(self.synsets[key]["sense_counts"])

    def kinds(self, key: str) -> list[str]:
        """Returns the kinds that the synset belongs to, the most specific first, except those that are too general."""
        names: list[str] = []
        row = self.synsets[key]
        step = (row["hypernyms"] or row["instance_hypernyms"])[:1]
        while step and len(names) < 4:
            name = self.common_name(step[0])
            known = self.familiarity(step[0]) > 0 and name.islower()
            empty = not _EMPTY_KINDS.isdisjoint(self.synsets[step[0]]["lemmas"])
            if known and not empty and name not in names:
                names.append(name)
            step = self.synsets[step[0]]["hypernyms"][:1] if step[0] in self.synsets else []
            step = [above for above in step if above in self.synsets]
        return names

    def siblings(self, key: str) -> list[str]:
        """Returns the ids of other synsets of the same kind, the best known first."""
        above = (self.synsets[key]["hypernyms"] or self.synsets[key]["instance_hypernyms"])[:1]
        rest = [other for parent in above for other in self.hyponyms.get(parent, []) if other != key]
        return sorted(rest, key=lambda other: (-self.familiarity(other), other))

    def names(self, keys: Iterable[str]) -> list[str]:
        """Returns the common names of synsets, without synsets that are not in this lexicon."""
        return [self.common_name(key) for key in keys if key in self.synsets]
