"""Folders in the cache are made once, whole or not at all."""

import stat

import pytest

from modeling_unimur.data.cache import build_once, cache_dir


def test_cache_folder_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("UNIMUR_CACHE", str(tmp_path / "cache"))
    assert cache_dir() == tmp_path / "cache"
    monkeypatch.delenv("UNIMUR_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_dir() == tmp_path / "home" / ".cache" / "unimur"


def test_failed_build_leaves_nothing_and_is_tried_again(tmp_path):
    target = tmp_path / "models" / "one"

    def broken(folder):
        (folder / "half").write_text("half")
        raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        build_once(target, broken)
    assert list(target.parent.iterdir()) == []
    build_once(target, lambda folder: (folder / "whole").write_text("whole"))
    assert [path.name for path in target.iterdir()] == ["whole"]
    assert stat.S_IMODE(target.stat().st_mode) == 0o755
    # It is not built twice: this build would fail.
    assert build_once(target, broken) == target


def test_build_that_another_process_finished_first_is_kept(tmp_path):
    target = tmp_path / "one"

    def overtaken(folder):
        target.mkdir()
        (target / "first").write_text("first")
        (folder / "second").write_text("second")

    build_once(target, overtaken)
    assert [path.name for path in tmp_path.iterdir()] == ["one"]
    assert [path.name for path in target.iterdir()] == ["first"]
