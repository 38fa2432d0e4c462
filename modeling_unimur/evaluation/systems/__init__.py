"""Retrieval systems behind one interface, so that they can be compared on the same dialogues."""

from ...conversation import words_of_dialogue
from .base import Gallery, System, Weights, megabytes, words_of_last_turn
from .baselines import BM25, Chance, SentenceTransformerSystem
from .clip_text import CLIP_TEXTS, ClipSpace, ClipText, ClipTextAnchor, ClipTextLinear
from .coherent import CoherentReply
from .unimur import UniMuR

__all__ = [
    "BM25", "CLIP_TEXTS", "Chance", "ClipSpace", "ClipText", "ClipTextAnchor", "ClipTextLinear", "CoherentReply",
    "Gallery", "SentenceTransformerSystem", "System", "UniMuR", "Weights", "megabytes", "words_of_dialogue",
    "words_of_last_turn",
]  # fmt: skip
