"""Pairs of Conceptual Captions with cached features, of every kind of dual encoder."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from transformers import AutoImageProcessor, AutoTokenizer

from modeling_unimur.data.row_store import StoredRows
from modeling_unimur.training import pairs
from modeling_unimur.training.context_rows import ImageRows
from modeling_unimur.training.frozen_features import FeatureOptions
from modeling_unimur.training.frozen_towers import project
from modeling_unimur.training.pairs import caption_hashes, load_pairs, parse_sources
from tests import tiny
from tests.tiny import siglip
from tests.training.cc3m_files import captions, write_tsv

pytestmark = pytest.mark.usefixtures("cache")

DUAL_ENCODERS = {
    "clip": tiny.clip,
    "siglip": lambda folder: siglip(folder, 1),
    "siglip2 of any shape": lambda folder: siglip(folder, 2),
    "open_clip": lambda folder: tiny.open_clip_folder(folder, "clip"),
    "open_clip, custom text": lambda folder: tiny.open_clip_folder(folder, "custom"),
    "open_clip, timm and transformers": tiny.open_clip_folder,
}


@pytest.fixture
def sources(tmp_path):
    """Thirty pairs for training, six for validation, five for test."""
    counts = {"cc3m": 30, "cc3m_validation": 6, "cc3m_test": 5}
    return [
        f"{name}={write_tsv(tmp_path / 'data' / f'{name}.tsv', count, seed)}"
        for seed, (name, count) in enumerate(counts.items())
    ]


def load(model, folder, sources, **kwargs):
    return load_pairs(
        model.clip,
        AutoImageProcessor.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
        sources,
        FeatureOptions(image_batch=4, text_batch=4),
        **kwargs,
    )


@pytest.mark.parametrize("kind", DUAL_ENCODERS)
def test_cached_features_are_those_of_the_model(kind, tmp_path, make_model, sources):
    folder = DUAL_ENCODERS[kind](tmp_path / "dual")
    model, processor = make_model(clip=folder)
    splits = load(model, folder, sources)
    assert {name: len(split.paths) for name, split in splits.items()} == {"train": 30, "validation": 6, "test": 5}
    split = splits["validation"]
    assert split.titles == split.texts == captions(6)
    pooled, projected = model.encode_images(**processor.process_images(split.paths))
    torch.testing.assert_close(split.pooled, pooled, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(project(model.clip, split.pooled), projected, atol=1e-5, rtol=1e-5)
        texts = model.encode_texts(**processor.process_texts(split.texts))
    torch.testing.assert_close(split.text_features, texts, atol=1e-5, rtol=1e-5)


def test_large_splits_stay_on_disk_and_train_alike(make_model, clip_folder, sources, monkeypatch):
    model, _ = make_model()
    whole = load(model, clip_folder, sources)["train"]
    monkeypatch.setattr(pairs, "_IN_MEMORY", 100)
    monkeypatch.setattr(pairs, "_STRINGS_IN_MEMORY", 10)
    lines = []
    stored = load(model, clip_folder, sources, tell=lines.append)["train"]
    assert isinstance(stored.pooled, StoredRows)
    assert isinstance(stored.text_features, StoredRows)
    assert not isinstance(stored.texts, list)
    assert any("30 were there, 0 computed now" in line for line in lines)
    order = torch.tensor([29, 4, 4])
    assert torch.equal(stored.pooled[order], whole.pooled[order])
    with torch.no_grad():
        torch.testing.assert_close(project(model.clip, stored.pooled)[order], project(model.clip, whole.pooled[order]))
    made = []
    for split in (whole, stored):
        rows = ImageRows(split, project(model.clip, split.pooled).__getitem__, split.pooled.__getitem__)
        made.append(list(DataLoader(rows, batch_size=7, num_workers=1, collate_fn=list)))
    for left, right in zip(*made, strict=True):
        for one, other in zip(left, right, strict=True):
            assert one["caption"] == other["caption"]
            for name in ("target_image_features", "target_text_features", "caption_visual_features"):
                torch.testing.assert_close(one[name], other[name])


def test_a_slice_by_hash_is_held_out_where_a_split_has_no_path(make_model, clip_folder, tmp_path, cache, monkeypatch):
    model, _ = make_model()
    path = write_tsv(tmp_path / "data/cc3m.tsv", 60)
    splits = load(model, clip_folder, [f"cc3m={path}"], held_out_fraction=0.2)
    texts = {name: set(split.texts) for name, split in splits.items()}
    assert sum(map(len, texts.values())) == 60
    assert set.union(*texts.values()) == set(captions(60))
    assert all(len(part) > 3 for part in texts.values())
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], *lines[:20:-1]]) + "\n")  # forty of them, the other way round
    fewer = load(model, clip_folder, [f"cc3m={path}"], held_out_fraction=0.2)
    for name, split in fewer.items():
        assert set(split.texts) == texts[name] & set(captions(60)[20:])

    def refuse(*args, **kwargs):
        raise AssertionError("features were computed")

    monkeypatch.setattr(pairs, "_cc3m_split", refuse)
    with pytest.raises(ValueError, match=r"cc3m_validation=PATH.*held_out_fraction"):
        load(model, clip_folder, [f"cc3m={path}"], held_out_fraction=0.0)


def test_pictures_that_cannot_be_read_take_their_captions_along(make_model, clip_folder, sources, tmp_path):
    (tmp_path / "data/images/cc3m_validation_2.png").write_bytes(b"<html>gone</html>")
    (tmp_path / "data/images/cc3m_validation_4.png").unlink()
    model, _ = make_model()
    lines = []
    split = load(model, clip_folder, sources, tell=lines.append)["validation"]
    assert split.texts == [captions(6)[number] for number in (0, 1, 3, 5)]
    assert len(split.pooled) == len(split.text_features) == len(split.groups) == 4
    report = next(line for line in lines if line.startswith("validation: "))
    assert "5 usable pairs of 15,840 published" in report
    assert "1 x image is missing" in report
    assert any("1 skipped" in line and "cc3m_validation_2.png" in line for line in lines)


def test_equal_captions_are_right_for_each_other():
    groups, positions = caption_hashes(["A cat", "a dog", "a cat"])
    assert groups[0] == groups[2] != groups[1]
    assert positions[0] == positions[2]
    many = caption_hashes([f"caption {number}" for number in range(4000)])[1]
    assert abs(np.mean(many < 0.25) - 0.25) < 0.03


@pytest.mark.parametrize(
    ("sources", "words"),
    [
        (["cc3m_validation=x.tsv"], "training split"),
        (["cc3m="], "each once"),
        (["cc3m=a.tsv", "cc3m=b.tsv"], "each once"),
        (["cc3m_train=a.tsv"], "cc3m_test=PATH"),
    ],
)
def test_wrong_sources_are_told(sources, words):
    with pytest.raises(ValueError, match=words):
        parse_sources(sources)


def test_kinds_of_sources_are_not_mixed(pair, clip_folder):
    with pytest.raises(ValueError, match="one kind"):
        load(pair[0], clip_folder, ["openmoji", "cc3m=x.tsv"])


def test_another_model_is_no_dual_encoder(pair, clip_folder):
    with pytest.raises(ValueError, match="LlamaForCausalLM"):
        load_pairs(
            pair[0].language_model,
            AutoImageProcessor.from_pretrained(clip_folder),
            AutoTokenizer.from_pretrained(clip_folder),
            ["cc3m=x.tsv"],
        )
