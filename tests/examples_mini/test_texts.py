"""Glosses and dialogues as texts with their right answers."""

from unimur_mini import texts
from unimur_mini.dialogues.things import split_of


def test_glosses_words_and_turns(monkeypatch):
    held_out = next(
        word for word in map("thing {}".format, "abcdefghijklmnopqrstuvwxyz") if split_of([word])[0] != "train"
    )
    kept = next(word for word in ("cat", "dog", "tree", "house") if split_of([word])[0] == "train")
    rows = [{"gloss": "it purrs", "title": kept}, {"gloss": "it purrs too", "title": kept}]
    rows += [{"gloss": "another thing of that name", "title": held_out}]
    said = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "yes?"},
        {"role": "user", "content": "hi"},
    ]
    monkeypatch.setattr(texts, "load_glosses", lambda: {"train": rows, "test": rows[:1]})
    monkeypatch.setattr(texts, "load_dialogue_texts", lambda: {"train": [{"turns": said}]})

    def pairs(found):
        return {
            split: [(row["turns"][0]["content"], row["target_text"]) for row in part] for split, part in found.items()
        }

    assert pairs(texts.glosses())["test"] == [("it purrs", kept)]
    assert pairs(texts.glosses())["train"][2] == ("another thing of that name", held_out)
    assert pairs(texts.words()) == {"train": [(kept, kept)]}
    assert pairs(texts.turns()) == {"train": [("hi", "hi"), ("yes?", "yes?")]}
