"""Dialogues that lead to an image or a text without naming it, built from WordNet and images' words."""

from .builder import FORMS, Dialogue
from .texts import (
    build_dialogues,
    build_glosses,
    build_questions,
    load_dialogue_texts,
    load_glosses,
    load_questions,
)
from .things import split_of

__all__ = [
    "FORMS",
    "Dialogue",
    "build_dialogues",
    "build_glosses",
    "build_questions",
    "load_dialogue_texts",
    "load_glosses",
    "load_questions",
    "split_of",
]
