"""What an index of this computer was built from."""

import json

import pytest

from modeling_unimur.data.source_folders import _record, folder_of_source, record_sources, source_folders


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("UNIMUR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("modeling_unimur.data.source_folders.records_folder", lambda: tmp_path / "cache" / "records")
    return tmp_path / "cache"


@pytest.mark.parametrize(
    ("source", "folder"),
    [
        ("photos", "photos"),
        ("photos/list.jsonl", "photos"),
        ("photos/{00..03}.tar", "photos"),
        ("photos/*/x?.parquet", "photos"),
        ("webqa=photos", "photos"),
        ("gimp_manual", "cache"),
    ],
)
def test_the_folder_of_a_source(monkeypatch, tmp_path, source, folder):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "list.jsonl").touch()
    monkeypatch.chdir(tmp_path)
    assert folder_of_source(source) == tmp_path / folder


def test_folders_are_kept_beside_and_not_in_the_index(tmp_path, cache):
    assert source_folders(tmp_path / "index") == []
    record_sources(tmp_path / "index", [tmp_path / "b"])
    record_sources(tmp_path / "x" / ".." / "index", [tmp_path / "a", tmp_path / "b"])
    assert source_folders(tmp_path / "index") == [tmp_path / "a", tmp_path / "b"]
    assert source_folders(tmp_path / "other") == []
    assert not (tmp_path / "index").exists()
    record_sources("http://localhost:19530", [tmp_path / "c"])
    assert source_folders("http://localhost:19530") == [tmp_path / "c"]


@pytest.mark.parametrize("text", ["", "[]", "{", '{"index": 3, "folders": ["/"]}', '{"index": "x"}', "\xff"])
def test_a_damaged_record_names_no_folder(tmp_path, text):
    record_sources(tmp_path / "index", [tmp_path])
    _record(tmp_path / "index").write_text(text, encoding="latin-1")
    assert source_folders(tmp_path / "index") == []


def test_a_record_of_another_index_is_not_used(tmp_path):
    record_sources(tmp_path / "index", [tmp_path])
    record = json.loads(_record(tmp_path / "index").read_text())
    _record(tmp_path / "index").write_text(json.dumps({**record, "index": str(tmp_path / "other")}))
    assert source_folders(tmp_path / "index") == []


def test_a_cache_that_cannot_be_written_is_passed_over(tmp_path, cache):
    cache.write_text("a file")
    record_sources(tmp_path / "index", [tmp_path])
    assert source_folders(tmp_path / "index") == []
