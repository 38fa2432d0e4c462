"""Features of frozen towers are computed once, and the rest after a kill."""

import pytest
import torch
from torch import nn

from modeling_unimur.training import frozen_features
from modeling_unimur.training.caption_forms import caption_forms
from modeling_unimur.training.frozen_features import FeatureStore, fingerprint, text_features


def test_goes_on_after_a_kill_and_never_encodes_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(frozen_features, "_SHARD", 4)
    items, encoded = {f"key{i}": i for i in range(10)}, []

    def encode(values, until=10):
        if len(encoded) >= until:
            raise KeyboardInterrupt
        encoded.extend(values)
        return list(range(len(values))), torch.tensor(values, dtype=torch.float32)[:, None]

    with pytest.raises(KeyboardInterrupt):
        FeatureStore(tmp_path).compute(items, lambda values: encode(values, until=8), desc="test")
    store = FeatureStore(tmp_path)
    assert len(store.rows) == 8
    store.compute(items, encode, desc="test")
    assert sorted(encoded) == list(range(10))
    assert [int(FeatureStore(tmp_path).rows[key]) for key in items] == list(range(10))


def test_what_cannot_be_read_is_left_out(tmp_path):
    store = FeatureStore(tmp_path)
    store.compute({"a": 1, "b": 2}, lambda values: ([1], torch.ones(1, 3)), desc="test")
    assert set(store.rows) == {"b"}


def test_fingerprint_changes_with_a_weight_and_with_the_preprocessing():
    tower = nn.Linear(3, 3)
    before = fingerprint(tower, "224 pixels")
    assert before == fingerprint(tower, "224 pixels")
    assert before != fingerprint(tower, "260 pixels")
    with torch.no_grad():
        tower.weight[1, 1] += 1e-3
    assert before != fingerprint(tower, "224 pixels")


def test_text_features_come_back_in_the_order_of_the_texts(tmp_path, monkeypatch):
    monkeypatch.setenv("UNIMUR_CACHE", str(tmp_path))
    texts = ["a long text about a cat", "b", "some words", "b"]
    features = text_features(nn.Linear(1, 1), lambda lines: torch.tensor([[float(len(x))] for x in lines]), texts)
    assert features.flatten().tolist() == [len(text) for text in texts]


def test_caption_forms():
    assert caption_forms("Red  cat", "A red cat.", ["cat", "animal"]) == ["Red cat", "A red cat.", "Red cat, animal"]
    assert caption_forms("cat", "cat.") == ["cat"]
    assert caption_forms("cat", "see http://x.y/z") == ["cat"]
    assert caption_forms("cat", " ".join(["word"] * 41)) == ["cat"]
    assert caption_forms("", "", []) == []
