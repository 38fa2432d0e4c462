"""Dialogues about an image or a text that do not name it, built from WordNet and the words of images."""

from .texts import load_dialogue_texts, load_glosses, load_questions

__all__ = ["load_dialogue_texts", "load_glosses", "load_questions"]
