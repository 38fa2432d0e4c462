"""Features of frozen towers are computed once, and the rest after a kill."""

import io
import shutil
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from transformers import CLIPImageProcessor

from modeling_unimur.data.image_bytes import member_address
from modeling_unimur.training.frozen_features import (
    FeatureOptions,
    FrozenImages,
    FrozenTexts,
    fingerprint,
    text_features,
)
from modeling_unimur.training.pairs import caption_forms

pytestmark = pytest.mark.usefixtures("cache")

SIDE = {"height": 8, "width": 8}


@pytest.fixture
def folder(tmp_path):
    """Ten different pictures of 8 pixels a side."""
    rng, folder = np.random.default_rng(0), tmp_path / "pictures"
    folder.mkdir()
    for number in range(10):
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return folder


class Tower(nn.Module):
    """A linear map of the pixels that counts what it encodes."""

    def __init__(self, until=10**9):
        super().__init__()
        torch.manual_seed(0)
        self.map, self.count, self.until = nn.Linear(192, 16), 0, until

    def encode(self, pixels):
        if self.count >= self.until:
            raise KeyboardInterrupt
        self.count += len(pixels)
        return self.map(pixels.flatten(1))


def processor():
    return CLIPImageProcessor(do_resize=False, do_center_crop=False, size=SIDE, crop_size=SIDE)


def paths(folder):
    return [str(path) for path in sorted(folder.glob("*.png"))]


def frozen(module, **options):
    return FrozenImages(module, module.encode, processor(), FeatureOptions(image_batch=2, shard_rows=4, **options))


def test_goes_on_after_a_kill_and_never_encodes_twice(folder):
    killed, tower = Tower(until=6), Tower()
    with pytest.raises(KeyboardInterrupt):
        frozen(killed).features(paths(folder))
    found = frozen(tower).features(paths(folder))
    assert (found.present, found.computed) == (4, 6)  # one shard of four was whole
    assert tower.count == 6
    again = Tower()
    known = frozen(again).features(paths(folder))
    assert (again.count, known.present, known.computed) == (0, 10, 0)
    pixels = processor()([Image.open(path) for path in paths(folder)], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(known.rows.tensor(), tower.map(pixels.flatten(1)).detach(), atol=1e-6, rtol=0)


def test_files_that_have_not_changed_are_not_read_again(folder, monkeypatch):
    frozen(Tower()).features(paths(folder))
    read = []
    monkeypatch.setattr(
        "modeling_unimur.encoding.items.read_image_bytes",
        lambda address: read.append(address) or open(address, "rb").read(),  # noqa: SIM115
    )
    frozen(Tower()).features(paths(folder))
    assert read == []
    Image.new("RGB", (8, 8), "red").save(folder / "3.png")
    tower = Tower()
    found = frozen(tower).features(paths(folder))
    assert read == [str(folder / "3.png")]
    assert (found.present, found.computed, tower.count) == (9, 1, 1)


def test_equal_files_are_encoded_once_wherever_they_lie(folder, tmp_path):
    frozen(Tower()).features(paths(folder))
    shutil.copytree(folder, tmp_path / "moved")
    tower = Tower()
    found = frozen(tower).features(paths(tmp_path / "moved"))
    assert (found.present, found.computed, tower.count) == (10, 0, 0)
    Image.new("RGB", (8, 8), "blue").save(folder / "new.png")
    shutil.copy(folder / "new.png", folder / "new2.png")
    found = frozen(tower).features(paths(folder))
    assert (found.present, found.computed, tower.count) == (11, 1, 1)
    assert torch.equal(found.rows[10], found.rows[11])


def test_what_cannot_be_read_is_left_out_and_named(folder, caplog):
    (folder / "4.png").write_bytes((folder / "4.png").read_bytes()[:40])
    listed = [*paths(folder), str(folder / "nowhere.png")]
    first = frozen(Tower()).features(listed)
    assert first.kept.tolist() == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert {position for position, _ in first.skipped} == {4, 10}
    assert "4.png" in caplog.text
    again = frozen(Tower()).features(listed)
    assert again.kept.tolist() == first.kept.tolist()
    assert {position for position, _ in again.skipped} == {4, 10}
    assert "skipped" in again.describe("pictures")


def test_pictures_in_a_tar_archive_have_the_features_of_the_files(folder, tmp_path):
    archive, addresses = tmp_path / "0.tar", []
    with tarfile.open(archive, "w") as tar:
        for path in paths(folder):
            tar.add(path, arcname=path.rsplit("/", 1)[1])
        tar.addfile(tarfile.TarInfo("empty.png"), io.BytesIO())
    with tarfile.open(archive) as tar:
        addresses = [member_address(archive, member.offset_data, member.size) for member in tar]
    tower = Tower()
    packed = frozen(tower).features(addresses)
    assert packed.kept.tolist() == list(range(10))
    assert packed.skipped[0][0] == 10
    plain = frozen(tower).features(paths(folder))
    assert (plain.present, tower.count) == (10, 10)
    assert torch.equal(plain.rows.tensor(), packed.rows.tensor())


def test_worker_processes_give_the_same_rows(folder, cache, monkeypatch, tmp_path):
    alone = frozen(Tower(), workers=0).features(paths(folder))
    monkeypatch.setenv("UNIMUR_CACHE", str(tmp_path / "other"))
    together = frozen(Tower(), workers=2).features(paths(folder))
    assert alone.folder != together.folder
    assert together.computed == 10
    assert torch.equal(alone.rows.tensor(), together.rows.tensor())


def test_rows_in_bfloat16_are_near_and_kept_apart(folder):
    plain = frozen(Tower()).features(paths(folder))
    half = frozen(Tower(), stored=torch.bfloat16).features(paths(folder))
    assert plain.folder != half.folder
    assert half.computed == 10
    near = torch.nn.functional.cosine_similarity(plain.rows.tensor(), half.rows.tensor())
    assert 0.999 < near.min() < 1 - 1e-7


def test_fingerprint_changes_with_a_weight_and_with_the_preprocessing():
    tower = nn.Linear(3, 3)
    before = fingerprint(tower, "224 pixels")
    assert before == fingerprint(tower, "224 pixels")
    assert before != fingerprint(tower, "260 pixels")
    with torch.no_grad():
        tower.weight[1, 1] += 1e-3
    assert before != fingerprint(tower, "224 pixels")
    assert fingerprint(nn.Linear(3, 3).bfloat16()) != fingerprint(nn.Linear(3, 3))


def test_text_features_come_back_in_the_order_of_the_texts():
    texts = ["a long text about a cat", "b", "some words", "b"]
    features = text_features(nn.Linear(1, 1), lambda lines: torch.tensor([[float(len(x))] for x in lines]), texts)
    assert features.flatten().tolist() == [len(text) for text in texts]


def test_texts_go_on_after_a_kill_and_equal_ones_are_encoded_once():
    tower, seen = nn.Linear(1, 1), []

    def encode(lines, until=10**9):
        if len(seen) >= until:
            raise KeyboardInterrupt
        seen.extend(lines)
        return torch.tensor([[float(line[5:])] for line in lines])

    texts, options = [f"text {number % 20}" for number in range(30)], FeatureOptions(text_batch=2, shard_rows=4)
    with pytest.raises(KeyboardInterrupt):
        FrozenTexts(tower, lambda lines: encode(lines, until=10), options).features(texts)
    done = len(seen)
    found = FrozenTexts(tower, encode, options).features(texts)
    assert done == 10
    assert (found.present, found.computed) == (16, 12)  # eight texts were on disk, each twice in the list
    assert len(seen) == done + 12
    assert found.rows.tensor().flatten().tolist() == [number % 20 for number in range(30)]


def test_caption_forms():
    assert caption_forms("Red  cat", "A red cat.", ["cat", "animal"]) == ["Red cat", "A red cat.", "Red cat, animal"]
    assert caption_forms("cat", "cat.") == ["cat"]
    assert caption_forms("cat", "see http://x.y/z") == ["cat"]
    assert caption_forms("cat", " ".join(["word"] * 41)) == ["cat"]
    assert caption_forms("", "", []) == []
