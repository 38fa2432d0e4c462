"""Rows are made once and kept with their columns."""

from unimur_mini.kept_rows import SPLITS, as_datasets, columns, kept, rows_of

TURNS = [{"role": "user", "content": "hello"}]


def test_rows_are_made_once(tmp_path, monkeypatch):
    monkeypatch.setenv("UNIMUR_CACHE", str(tmp_path))
    made = []

    def build():
        made.append(1)
        parts = {
            split: [{"text": split, "turns": TURNS, "aside": number} for number in range(2)] for split in SPLITS[:2]
        }
        return as_datasets({**parts, "test": parts["train"][:1]}, columns("text", "turns"))

    for _ in range(2):
        found = kept("words-1", build)
        assert list(found) == list(SPLITS)
        assert {split: [row["text"] for row in rows_of(part)] for split, part in found.items()} == {
            "train": ["train"] * 2, "validation": ["validation"] * 2, "test": ["train"],
        }  # fmt: skip
        assert rows_of(found["test"]) == [{"text": "train", "turns": TURNS}]
    assert made == [1]
