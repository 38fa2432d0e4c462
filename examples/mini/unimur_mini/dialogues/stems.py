"""Checks by word stems whether a text names something that it must not name."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable

from modeling_unimur.data.titles import normalise_title

from .phrases import word_list

# Shared by almost every text: they name nothing.
STOP_WORDS = frozenset(word_list("stop words"))
_SUFFIXES = word_list("suffixes")
_WORD = re.compile(r"[^\W_]+")
# Below this length a word inside another is mostly chance ("art" in "party").
_SHORTEST_PART = 4


@functools.lru_cache(maxsize=200_000)
def stem(word: str) -> str:
    """A word without case, accents, plural and common endings, never shorter than three letters. Coarse on purpose: a
    shared stem loses a sentence, a missed one gives an answer away."""
    rest = normalise_title(word) or word.casefold()
    for _ in range(2):
        suffix = next((ending for ending in _SUFFIXES if rest.endswith(ending) and len(rest) - len(ending) >= 3), "")
        rest = rest[: len(rest) - len(suffix)]
        if len(rest) > 3 and rest[-1] == rest[-2]:
            rest = rest[:-1]
    return rest


@functools.lru_cache(maxsize=200_000)
def content_stems(text: str) -> frozenset[str]:
    """Stems of a text's words, without function words."""
    return frozenset(stem(word) for word in _WORD.findall(text.casefold()) if word not in STOP_WORDS)


def hidden_stems(names: Iterable[str]) -> frozenset[str]:
    """Stems that a dialogue about something with these names must not say."""
    return frozenset().union(*(content_stems(name) for name in names))


def says(text: str, hidden: frozenset[str]) -> bool:
    """Whether a word of `text` has one of the `hidden` stems, holds one, or is the beginning of one."""
    said = content_stems(text)
    if said & hidden:
        return True
    return any(
        (len(name) >= _SHORTEST_PART and name in word) or (len(word) >= _SHORTEST_PART and name.startswith(word))
        for name in hidden
        for word in said
    )
