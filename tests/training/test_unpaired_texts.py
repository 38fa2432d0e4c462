"""Contexts that are texts alone, from the real sources."""

import pytest

from modeling_unimur.training.context_rows import TextContext, load_texts
from tests.installable import loaded_or_skipped
from unimur_mini.chats import SPLITS
from unimur_mini.dialogues import load_dialogue_texts, load_glosses
from unimur_mini.dialogues.things import split_of


@pytest.mark.slow
def test_texts_that_are_their_own_right_answers():
    glosses = loaded_or_skipped(load_glosses)
    found = load_texts(["words", "turns"])
    assert {name: set(parts) for name, parts in found.items()} == {"words": {"train"}, "turns": {"train"}}
    for parts in found.values():
        contexts = parts["train"]
        assert all(context.turns == [context.target] and not context.image for context in contexts)
        assert len({context.target for context in contexts}) == len(contexts) > 20_000
    words = {context.target for context in found["words"]["train"]}
    assert words <= set(glosses["train"]["title"])
    assert all(split_of([word])[0] == "train" for word in words)  # also where a held-out thing has the same name
    shown = {row["title"] for split in ("validation", "test") for row in glosses[split] if row["target_picture"]}
    assert not words & shown
    said = {turn["content"] for row in load_dialogue_texts()["train"] for turn in row["turns"]}
    assert {context.target for context in found["turns"]["train"]} == said


def test_chats_are_a_source(monkeypatch):
    row = {"turns": [{"role": "user", "content": "Hi"}], "target_text": "Hello to you too"}
    monkeypatch.setattr(
        "unimur_mini.chats.load_chats", lambda: {split: [row | {"target_text": split}] for split in SPLITS}
    )
    found = load_texts(["chats"])["chats"]
    assert found == {split: [TextContext(["Hi"], split)] for split in SPLITS}


def test_own_chats_are_a_source(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"turns": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}\n')
    source = f"chats={path}"
    assert load_texts([source]) == {source: {"train": [TextContext(["Hi"], "Hello")], "validation": [], "test": []}}


@pytest.mark.parametrize("source", ["chats=", "dialogues=file.jsonl", "=x"])
def test_only_chats_are_read_from_a_file(source):
    with pytest.raises(ValueError, match="chats=PATH"):
        load_texts([source])


def test_an_unknown_source_is_named():
    with pytest.raises(ValueError, match="poems"):
        load_texts(["poems"])
