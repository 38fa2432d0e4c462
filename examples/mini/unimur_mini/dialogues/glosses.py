"""Rewrites glosses as spoken language: single statements with articles and without brackets."""

from __future__ import annotations

import re
from collections.abc import Sequence

from modeling_unimur.data.titles import normalise_title

from .phrases import word_list
from .stems import content_stems, says

_BRACKETS = re.compile(r"\s*\([^()]*\)")
_DETERMINER = re.compile(rf"(?:\w+ly |at least )?(?:{'|'.join(word_list('determiners'))})\b", re.I)
_ANY_OF = re.compile(r"any (?:one )?(?:of )?(?:the )?(?:various|several|numerous|many|a number of|certain)?\s*", re.I)
_AFTER_HEAD = re.compile(rf"\s(?:{'|'.join(word_list('after the head'))})\s|,")
_VOWEL = re.compile(
    r"(?!uni(?!n|m)|use|usu|ute|eu|one\b|once\b|u\b|ubiq|uran)[aeiou]|[fhlmnrsx]-|hour|honest|honor|heir", re.I
)
_COUNTED = frozenset(f"noun.{name}" for name in word_list("counted fields"))
# Head words of definitions that take no article, unlike similar words.
_MASS = frozenset(word_list("mass nouns"))
_RELATIVE = re.compile(r"(?:^|[\s,])(?:that|which|who)\s+((?!(?:is|was|has|its|this|his|as)\b)[a-z]+(?:s|ed)\b.*)")
_RELATIVE_BE = re.compile(r"(?:^|[\s,])(?:that|which|who)\s+((?:is|are|has|have|can|may|must|will)\b.*)")
_SLOT = re.compile(r"\{\w+\}")
_PARTS = (
    (re.compile(r"\b(used (?:to|for|in|by|as|with|on|when)\s.+)"), "{it_is} {}"),
    (re.compile(r"\b(made (?:of|from|by|with|up of|in)\s.+)"), "{it_is} {}"),
    (re.compile(r"\bhaving (.+)"), "{it_has} {}"),
    (re.compile(r"\b((?:native to|found|living|grown|worn|cultivated|located)\s.+)"), "{it_is} {}"),
    (re.compile(r"\bconsisting of (.+)"), "{it} consists of {}"),
    (re.compile(r"\bresembling (.+)"), "{it} resembles {}"),
    (re.compile(r"\bcontaining (.+)"), "there's {} in it"),
    (
        re.compile(
            r"(?:^|\s)with ((?:an? |the |long|short|large|small|two|four|many|no |dark|white|black|red|yellow|very).+)"
        ),
        "{it_has} {}",
    ),
)
_ADVERB = r"(?:usually|often|sometimes|also|now)"
_PARTICIPLE = re.compile(
    r"(?:used|made|found|native|considered|grown|cultivated|worn|known|related|"
    rf"{_ADVERB} (?:\w+ed|made|found|built|worn|grown))\b"
)
_VERB = re.compile(
    r"(?:has|is|was|can|may|lives|occurs|grows|feeds|contains|includes|consists|resembles|comes|makes|"
    rf"{_ADVERB} (?:was|can|may|\w+s))\b"
)
_PLURAL_VERB = re.compile(r"(?:have|are)\b")


def plain(gloss: str) -> list[str]:
    """Returns the statements of a definition without text in brackets. The first one defines, the others add facts."""
    while (shorter := _BRACKETS.sub("", gloss)) != gloss:
        gloss = shorter
    gloss = re.sub(r"[()]", "", gloss).replace("`", "'")
    pieces = (" ".join(piece.split()).strip(" ,.:-") for piece in gloss.split(";"))
    return [piece for piece in pieces if len(piece) > 2]


def article(phrase: str) -> str:
    """Returns `a` or `an` according to the sound of the phrase: "an hour", "a unicorn"."""
    return "an" if _VOWEL.match(phrase) else "a"


def with_article(name: str) -> str:
    """Adds the article to a countable noun in the singular. Plurals, names and mass nouns are unchanged."""
    last = name.split()[-1] if name.split() else ""
    if not last or name[0].isupper() or last.casefold() in _MASS or is_plural(last):
        return name
    return f"{article(name)} {name}"


def is_plural(noun: str) -> bool:
    """Returns whether a noun has the form of a plural."""
    word = noun.casefold()
    return word in ("people", "species", "genera") or (word.isalpha() and normalise_title(word) != word)


def _head_end(definition: str) -> int:
    match = _AFTER_HEAD.search(definition)
    return match.start() if match else len(definition)


def head(definition: str) -> str:
    """Returns the head noun of a definition: "large mammal of the forest" -> "mammal"."""
    said = definition[: _head_end(definition)].split()
    return said[-1].casefold() if said else ""


def is_noun_phrase(definition: str) -> bool:
    """Returns whether a noun's definition names a kind of thing, and not only a use of it."""
    first = definition.split()[0].casefold()
    return head(definition) != first or not first.endswith(("ed", "ing"))


def noun_phrase(definition: str, lexname: str) -> str:
    """Returns a noun's definition in a form that can follow "it's": with an article, or as one of many."""
    any_of = _ANY_OF.match(definition)
    if any_of and definition[:3].casefold() == "any":
        rest = definition[any_of.end() :]
        return f"one of those {rest}" if is_plural(head(rest)) else f"{article(rest)} {rest}"
    if _DETERMINER.match(definition):
        return definition
    noun = head(definition)
    if is_plural(noun):
        return f"one of those {definition}"
    if lexname in _COUNTED and noun not in _MASS and noun.isalpha() and not noun.endswith(("ed", "ing")):
        return f"{article(definition)} {definition}"
    return f"a kind of {definition}"


def statements(pieces: Sequence[str], hidden: frozenset[str], *, longest: int = 22) -> list[str]:
    """Returns the facts of a noun's definition, which is given as pieces of `plain`, as clauses.

    The clauses have the slots `{it}`, `{it_is}` and `{it_has}`. No clause contains one of the `hidden` stems.
    """
    found: list[str] = []
    for number, piece in enumerate(pieces):
        plural = is_plural(head(piece))
        for pattern, template in _PARTS:
            match = pattern.search(piece)
            if match:
                found.append(template.replace("{}", _braceless(match[1])))
        for pattern in (_RELATIVE, _RELATIVE_BE):
            match = pattern.search(piece)
            # The clause must be about the head, and the verb must agree with it.
            if (
                match
                and number == 0
                and match.start() <= _head_end(piece) + 1
                and not (plural and pattern is _RELATIVE)
            ):
                found.append("{it} " + _singular_verb(_braceless(match[1])))
        if number or not is_noun_phrase(piece):
            found.append(_added(piece))
    texts = [text for text in dict.fromkeys(found) if text and 3 <= len(text.split()) <= longest]
    texts = [text for text in texts if not says(text, hidden) and _whole(text)]
    stems = [content_stems(_SLOT.sub("", text)) for text in texts]
    # Of two clauses with the same content, the longer one is kept.
    return [text for text, own in zip(texts, stems, strict=True) if not any(own < other for other in stems)]


def _added(piece: str) -> str:
    """Completes a later statement of a gloss, which often has no subject ("occurs in many breeds", "used as fuel")."""
    text = _braceless(piece)
    first = text.split()[0]
    if _VERB.match(text):
        return "{it} " + text
    if _PARTICIPLE.match(text):
        return "{it_is} " + text
    if _PLURAL_VERB.match(text):
        return "{it} " + _singular_verb(text)
    if first in ("a", "an", "the", "one", "any"):
        return "{it_is} " + text if not re.search(r"\b(?:is|are|has|was|were)\b", text) else ""
    return ""


def _singular_verb(clause: str) -> str:
    return re.sub(r"^are\b", "is", re.sub(r"^have\b", "has", clause))


def _braceless(text: str) -> str:
    return text.replace("{", "").replace("}", "").strip(" ,")


def _whole(text: str) -> bool:
    """Returns whether a clause is complete."""
    last = text.split()[-1].strip(".,'\"").casefold()
    return last not in {"a", "an", "the", "of", "and", "or", "to", "in", "with", "for", "by", "as", "that", "which"}
