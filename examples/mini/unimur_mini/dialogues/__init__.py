"""Dialogues that lead to an image or a text without naming it, built from WordNet and images' words."""

from .texts import load_dialogue_texts, load_glosses, load_questions

__all__ = ["load_dialogue_texts", "load_glosses", "load_questions"]
