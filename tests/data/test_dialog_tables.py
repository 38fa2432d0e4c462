"""Dialogues and pictures as parquet files."""

import logging

import pytest
from datasets import load_dataset

from modeling_unimur.data.dialog_tables import dialog_features, image_features, write_dialog_tables
from modeling_unimur.data.mmdialog import MMDialog
from modeling_unimur.data.vist import VIST
from tests.data import published_files as files


def _load(path, tmp_path):
    return load_dataset("parquet", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))


def test_mmdialog_as_tables(tmp_path, caplog):
    path = files.write_mmdialog(tmp_path / "mm")
    (path.parent / "100000000000000003.jpg").unlink()
    found = MMDialog(tmp_path / "mm")
    with caplog.at_level(logging.WARNING):
        dialogs, images = write_dialog_tables(found, found.picture, tmp_path / "tables")
    assert "1 images are missing" in caplog.text
    table = _load(dialogs, tmp_path)
    assert table.features == dialog_features()
    assert len(table) == 4
    assert table[3]["turns"][1] == {
        "speaker": "1",
        "text": "here is my red balloon 3",
        "image_ids": ["-100000000000000003", "100000000000000003"],
    }
    pictures = _load(images, tmp_path)
    assert pictures.features == image_features()
    assert pictures["image_id"][:] == ["-100000000000000001", "-100000000000000003"]
    assert pictures[0]["image"].size == (32, 24)
    assert pictures[0]["caption"] is None


def test_a_picture_of_two_stories_is_stored_once(tmp_path):
    files.write_vist(tmp_path, stories=2)
    found = VIST(tmp_path)
    stories = [story.dialog() for story in found]
    write_dialog_tables([*stories, *stories], found.picture, tmp_path / "tables", caption=lambda name: f"of {name}")
    pictures = _load(tmp_path / "tables" / "images.parquet", tmp_path)
    assert len(pictures) == 10
    assert pictures[0]["caption"] == "of 5000"


def test_no_dialogue(tmp_path):
    with pytest.raises(ValueError, match="no dialogue"):
        write_dialog_tables([], lambda name: None, tmp_path)
