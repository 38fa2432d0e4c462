"""Splits captions into pieces that answer a question: object, attributes, place, action."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from .phrases import word_list
from .stems import content_stems

# The kinds of question that ask for a word before the noun.
_KINDS = {word: kind for kind in ("colour", "size", "number") for word in word_list(f"words.{kind}")}
_PLACES, _HAVING, _DETERMINERS, _AUXILIARIES, _PRONOUNS, _CLAUSES, _CONJUNCTIONS = (
    frozenset(word_list(f"words.{kind}"))
    for kind in ("place", "having", "determiner", "auxiliary", "pronoun", "clause", "conjunction")
)
# A phrase does not end after these words.
_OPEN = _DETERMINERS | _AUXILIARIES | _PLACES | _HAVING | {"used", "made", "for", "of", "to", "not"}
_WORD = re.compile(r"[^\W_]")
_STOPS = ",;:."
_MARKS = f"{_STOPS}!?()"


class Piece(NamedTuple):
    """A part of a caption.

    Args:
        kind: One of `what` (a noun), `event` (a sentence), `colour`, `size`, `number`, `modifier`, `where`, `having`,
            `purpose`, `doing`, `clause`, `more`, or `tag`.
        text: The words that answer the question.
        noun: The noun that a question about the piece may use, or an empty string if there is none.
    """

    kind: str
    text: str
    noun: str = ""


def caption_pieces(caption: str, is_noun: Callable[[str], bool]) -> tuple[Piece, ...]:
    """Splits a caption, which is a noun phrase or a sentence, into pieces in the order of its words.

    The pieces contain most of the words. `is_noun` tells whether a word can be a noun.
    """
    pieces: list[Piece] = []
    for number, (kind, words) in enumerate(_segments(caption)):
        if number == 0:
            pieces += _first(words, is_noun)
        else:
            pieces.append(Piece(kind, " ".join(words), _bare(words[1:]) if kind in ("where", "having") else ""))
    return tuple(piece for piece in pieces if content_stems(piece.text))


def _segments(caption: str) -> list[tuple[str, list[str]]]:
    """Returns kinds and words of the parts between prepositions, punctuation marks and conjunctions."""
    found: list[tuple[str, list[str]]] = []
    kind, words = "what", []

    def close(following: str) -> None:
        nonlocal kind, words
        if words and found and not content_stems(" ".join(words)):
            # No question asks for "of it" or "in this".
            found[-1][1].extend(words)
        elif words:
            found.append((kind, words))
        kind, words = following, []

    for token in caption.replace(" - ", ", ").split():
        word = token.strip(_MARKS).casefold()
        if not _WORD.search(word):
            continue
        following = _begins(word)
        if following and words and words[-1].casefold() not in _OPEN and content_stems(" ".join(words)):
            close(following)
            if word in _CONJUNCTIONS:
                continue
        words.append(token.strip(_MARKS))
        if token[-1] in _STOPS:
            close("more")
    close("more")
    return found


def _begins(word: str) -> str:
    """Returns the kind of the piece that a word begins, or an empty string."""
    if word in _PLACES:
        return "where"
    if word in _HAVING:
        return "having"
    if word in ("for", "used"):
        return "purpose"
    if word in _CLAUSES:
        return "clause"
    if word == "like" or word in _CONJUNCTIONS:
        return "more"
    return "doing" if word.endswith("ing") and len(word) > 5 else ""


def _first(words: list[str], is_noun: Callable[[str], bool]) -> list[Piece]:
    """Splits the first part: a noun phrase into its noun and the words before it; a sentence remains one piece."""
    head, _, rest = " ".join(words).partition(" of ")
    parts = head.split()
    while len(parts) > 1 and parts[0].casefold() in _DETERMINERS:
        parts = parts[1:]
    noun = parts[-1]
    if not is_noun(noun) or (_AUXILIARIES | _PRONOUNS | _DETERMINERS) & {part.casefold() for part in parts}:
        return [Piece("event", " ".join(words))]
    pieces = [Piece("what", noun)]
    pieces += [Piece(_KINDS.get(part.casefold(), "modifier"), part, noun) for part in parts[:-1]]
    return [*pieces, Piece("more", rest)] if rest else pieces


def _bare(words: list[str]) -> str:
    """Returns a short noun phrase without its article, for "is there ...?", or an empty string."""
    if words and words[0].casefold() in _DETERMINERS:
        words = words[1:]
    return " ".join(words) if 0 < len(words) < 4 else ""
