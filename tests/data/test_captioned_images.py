"""Captioned images of a person's own, split by image."""

import json
import shutil
from pathlib import Path

import pytest
from datasets import Dataset, Image

from modeling_unimur.data import captioned_images
from modeling_unimur.data.cache import PackageUnavailable
from modeling_unimur.data.captioned_images import captioned_image_splits, load_captioned_images
from tests.data.test_titles import pictures


@pytest.fixture
def folder(tmp_path, pictures):
    """Ten images of two captions each, and some lines that cannot be used."""
    root, lines = tmp_path / "mine", ["gone.png\ta thing that is gone", "no tab here"]
    root.mkdir()
    for number in range(10):
        shutil.copy(pictures[number % len(pictures)], root / f"{number}.png")
        lines += [f"{number}.png\tcaption {number} {turn}" for turn in range(2)]
    (root / "captions.tsv").write_text("\n".join(lines))
    return root


def test_no_image_is_in_both_splits(folder, caplog):
    splits = captioned_image_splits(str(folder), 0.3)
    assert {name: len(found) for name, found in splits.items()} == {"train": 7, "validation": 3}
    assert not set(splits["train"]) & set(splits["validation"])
    for file, captions in (*splits["train"].items(), *splits["validation"].items()):
        number = file.removesuffix(".png")[-1]
        assert captions == [f"caption {number} 0", f"caption {number} 1"]
    assert captioned_image_splits(str(folder), 0.3) == splits
    assert "1 x file is missing, 1 x line that is not file<TAB>caption" in caplog.text


def test_karpathys_own_splits(folder):
    entries = [
        {"filename": f"{number}.png", "filepath": "", "split": split, "sentences": [{"raw": f"caption {number} "}]}
        for number, split in enumerate(("train", "restval", "val", "test"))
    ]
    (folder / "dataset.json").write_text(json.dumps({"images": entries}))
    splits = captioned_image_splits(str(folder / "dataset.json"), 0.3)
    assert list(splits["train"].values()) == [["caption 0"], ["caption 1"]]
    assert list(splits["validation"].values()) == [["caption 2"]]


@pytest.mark.parametrize("column", ["caption", "sentences"])
def test_a_data_set_of_the_hub(folder, tmp_path, monkeypatch, column):
    monkeypatch.setenv("UNIMUR_CACHE", str(tmp_path / "cache"))
    content = [(folder / f"{number}.png").read_bytes() for number in range(3)]
    captions = [["a", "b"], ["c"], []] if column == "sentences" else ["a", "c", " "]
    table = Dataset.from_dict({"photo": [{"bytes": part, "path": None} for part in content], column: captions})
    monkeypatch.setattr("datasets.load_dataset", lambda name, split: table.cast_column("photo", Image()))
    splits = captioned_image_splits("owner/name", 0.5)
    found = {**splits["train"], **splits["validation"]}
    assert sorted(found.values()) == ([["a", "b"], ["c"]] if column == "sentences" else [["a"], ["c"]])
    assert all(Path(file).read_bytes() in content for file in found)


@pytest.mark.parametrize("name", ["FOLDER", "some/where/else", "owner/name"])
def test_a_missing_folder_is_one_error(name, monkeypatch):
    def offline(*_, **__):
        raise ConnectionError("no network")

    monkeypatch.setattr("datasets.load_dataset", offline)
    with pytest.raises(FileNotFoundError, match=name):
        captioned_image_splits(name, 0.1)


@pytest.mark.parametrize(("fraction", "message"), [(0.0, "held_out_fraction"), (0.97, "too few")])
def test_a_split_without_images_is_an_error(folder, fraction, message):
    with pytest.raises(ValueError, match=message):
        captioned_image_splits(str(folder), fraction)


def test_columns_that_hold_no_caption_are_named(monkeypatch):
    table = Dataset.from_dict({"label": [1]})
    monkeypatch.setattr("datasets.load_dataset", lambda name, split: table)
    with pytest.raises(ValueError, match=r"label"):
        captioned_images.captioned_image_splits("owner/name", 0.5)


# -- named sources --------------------------------------------------------------------------------------------------
def images_of(source):
    return pictures(["bear"], source)


def test_sources_that_cannot_be_brought_are_named_once(monkeypatch, caplog):
    def absent():
        raise PackageUnavailable("Debian package openclipart-png: apt-get is not on this system")

    monkeypatch.setattr("unimur_mini.openclipart.load_openclipart", absent)
    monkeypatch.setattr("unimur_mini.stamps.load_stamps", absent)
    monkeypatch.setattr("unimur_mini.openmoji.load_openmoji", lambda: images_of("openmoji"))
    joined = load_captioned_images()
    assert joined["source"][:] == ["openmoji"]
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "Images of openclipart are left out",
        "Images of stamps are left out",
    ]
    with pytest.raises(PackageUnavailable, match="no source"):
        load_captioned_images(["stamps"])


def test_sources_are_joined_in_the_order_asked_for(monkeypatch):
    for name in ("openmoji", "stamps"):
        monkeypatch.setattr(f"unimur_mini.{name}.load_{name}", lambda name=name: images_of(name))
    assert load_captioned_images(("stamps", "openmoji"))["source"][:] == ["stamps", "openmoji"]
    with pytest.raises(ValueError, match="photos"):
        load_captioned_images(["photos"])
    with pytest.raises(ValueError, match="choose from"):
        load_captioned_images([])
