"""Checks with word stems whether a text names something that it must not name."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable

from modeling_unimur.data.titles import normalise_title

from .phrases import word_list

# Words of almost every text, which name nothing.
STOP_WORDS = frozenset(word_list("stop words"))
_SUFFIXES = word_list("suffixes")
_WORD = re.compile(r"[^\W_]+")
# A shorter word is mostly part of another one by chance ("art" in "party").
_SHORTEST_PART = 4


@functools.lru_cache(maxsize=200_000)
def stem(word: str) -> str:
    """Returns a word without case, accents, plural and common endings, but with at least three letters.

    Stems are deliberately coarse: a stem that is shared by chance only costs a sentence, while a missed one reveals
    the answer.
    """
    rest = normalise_title(word) or word.casefold()
    for _ in range(2):
        suffix = next((ending for ending in _SUFFIXES if rest.endswith(ending) and len(rest) - len(ending) >= 3), "")
        rest = rest[: len(rest) - len(suffix)]
        if len(rest) > 3 and rest[-1] == rest[-2]:
            rest = rest[:-1]
    return rest


@functools.lru_cache(maxsize=200_000)
def content_stems(text: str) -> frozenset[str]:
    """Returns the stems of a text's words, without function words."""
    return frozenset(stem(word) for word in _WORD.findall(text.casefold()) if word not in STOP_WORDS)


def hidden_stems(names: Iterable[str]) -> frozenset[str]:
    """Returns the stems that a dialogue about something with these names must not contain."""
    return frozenset().union(*(content_stems(name) for name in names))


def says(text: str, hidden: frozenset[str]) -> bool:
    """Returns whether a word of `text` has one of the `hidden` stems, contains one, or is the beginning of one."""
    said = content_stems(text)
    if said & hidden:
        return True
    return any(
        (len(name) >= _SHORTEST_PART and name in word) or (len(word) >= _SHORTEST_PART and name.startswith(word))
        for name in hidden
        for word in said
    )
