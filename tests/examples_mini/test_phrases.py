"""The phrases of the dialogues stand in text files."""

from __future__ import annotations

import string

import pytest

from unimur_mini.dialogues.phrases import PHRASES, read_phrases


def test_sections_keep_the_order_of_their_lines(tmp_path):
    path = tmp_path / "phrases.txt"
    path.write_text("# a comment\n\n[yes]\nyes\n{it} is [really]\n\nyes\n[kinds.what]\nwhat?\n", encoding="utf-8")
    assert read_phrases(path) == {"yes": ("yes", "{it} is [really]", "yes"), "kinds.what": ("what?",)}


@pytest.mark.parametrize(("text", "token"), [("yes\n", "line 1"), ("[a]\nyes\n[a]\n", "line 3")])
def test_lines_out_of_place_are_named(tmp_path, text, token):
    path = tmp_path / "phrases.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=token):
        read_phrases(path)


def test_phrases_use_known_slots():
    slots = {
        "time",
        "place",
        "friend",
        "fact",
        "noun",
        "name",
        "bare",
        "it",
        "category",
        "usage",
        "text",
        "a",
        "come",
        "him",
    }
    used = {
        name
        for phrases in PHRASES.values()
        for phrase in phrases
        for _, name, _, _ in string.Formatter().parse(phrase)
        if name is not None
    }
    assert used == slots
    assert all(phrase == phrase.strip() for phrases in PHRASES.values() for phrase in phrases)
