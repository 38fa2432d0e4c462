"""Rows are made once and kept with their columns."""

from datasets import Features, Value

from unimur_mini.kept_rows import SPLITS, as_datasets, kept


def test_rows_are_made_once(tmp_path, monkeypatch):
    monkeypatch.setenv("UNIMUR_CACHE", str(tmp_path))
    made = []

    def build():
        made.append(1)
        parts = {split: [{"text": split, "aside": number} for number in range(2)] for split in SPLITS[:2]}
        return as_datasets({**parts, "test": parts["train"][:1]}, Features({"text": Value("string")}))

    for _ in range(2):
        found = kept("words-1", build)
        assert list(found) == list(SPLITS)
        assert {split: part.to_list() for split, part in found.items()} == {
            "train": [{"text": "train"}] * 2, "validation": [{"text": "validation"}] * 2, "test": [{"text": "train"}],
        }  # fmt: skip
    assert made == [1]
