"""Files that are written whole or not at all."""

import json

import pytest

from modeling_unimur.data.atomic_files import atomic_file, write_json


def test_a_file_appears_when_the_block_ends(tmp_path):
    path = tmp_path / "new" / "file.txt"
    with atomic_file(path) as aside:
        aside.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_an_error_leaves_the_former_file(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("before")

    def write_half() -> None:
        with atomic_file(path) as aside:
            aside.write_text("half")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        write_half()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_is_followed(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "file.json")
    write_json(tmp_path / "link", {"a": [1]})
    assert (tmp_path / "link").is_symlink()
    assert json.loads((tmp_path / "file.json").read_text()) == {"a": [1]}


def test_options_of_json_are_passed_on(tmp_path):
    write_json(tmp_path / "a.json", "\u00e9", ensure_ascii=False)
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '"\u00e9"\n'
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", float("nan"), allow_nan=False)
