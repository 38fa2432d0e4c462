"""Files with a checksum: what has changed or belongs elsewhere is put aside, what an earlier version wrote is read."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from modeling_unimur.data.shards import read_shards, write_shard

TENSORS = {
    "keys": torch.arange(12, dtype=torch.uint8).reshape(3, 4),
    "rows": torch.linspace(-1, 1, 6).reshape(3, 2),
    "short": torch.ones(3, 1, dtype=torch.bfloat16),
    "empty": torch.empty(0, 2, dtype=torch.float16),
}


def contents(folder):
    return dict(read_shards(folder, lambda tensors: tensors))


def same(found, expected=TENSORS):
    return set(found) == set(expected) and all(
        found[name].dtype == tensor.dtype and torch.equal(found[name], tensor) for name, tensor in expected.items()
    )


def test_what_is_written_is_read_by_everybody(tmp_path):
    shard = write_shard(tmp_path / "store", "a", TENSORS)
    write_shard(tmp_path / "store", "b", TENSORS)
    assert [path.name for path in contents(shard.parent)] == ["a.safetensors", "b.safetensors"]
    assert same(contents(shard.parent)[shard])
    assert same(load_file(shard))
    assert list(read_shards(shard.parent, dict, known={shard, shard.with_name("b.safetensors")})) == []
    assert contents(tmp_path / "nowhere") == {}


def test_no_flipped_bit_changes_what_is_read(tmp_path, caplog):
    shard = write_shard(tmp_path / "store", "a", TENSORS)
    whole, read = shard.read_bytes(), 0
    for place in range(len(whole)):
        for bit in (0, 5, 7):
            shard.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
            found = contents(shard.parent)
            assert all(same(tensors) for tensors in found.values()), (place, bit)
            assert bool(found) != shard.with_name("a.safetensors.damaged").exists()
            read += len(found)
            shard.with_name("a.safetensors.damaged").unlink(missing_ok=True)
    # In padding, and in the name under which the checksum lies.
    assert read < 30


def test_no_cut_file_is_read(tmp_path, caplog):
    shard = write_shard(tmp_path / "store", "a", TENSORS)
    whole = shard.read_bytes()
    for length in range(len(whole)):
        shard.write_bytes(whole[:length])
        assert contents(shard.parent) == {}
    assert caplog.text.count("is damaged") == len(whole)


@pytest.mark.parametrize(
    ("place", "is_read"),
    [
        ("store/a.safetensors", True),
        ("moved/store/a.safetensors", True),
        ("store/b.safetensors", False),
        ("other/a.safetensors", False),
    ],
)
def test_a_file_is_read_where_it_belongs(place, is_read, tmp_path, caplog, monkeypatch):
    shard = write_shard(tmp_path / "first" / "store", "a", TENSORS)
    target = tmp_path / place
    target.parent.mkdir(parents=True)
    os.replace(shard, target)
    monkeypatch.chdir(target.parent.parent)  # a relative path is the same place
    assert [path.name for path in contents(Path(target.parent.name))] == [target.name] * is_read
    assert (target.name in caplog.text) != is_read


def test_what_an_earlier_version_wrote_is_read(tmp_path, caplog):
    write_shard(tmp_path, "new", TENSORS)
    save_file(TENSORS, tmp_path / "old.safetensors")
    save_file(TENSORS, tmp_path / "older.safetensors", metadata={"format": "pt"})
    assert len(contents(tmp_path)) == 3
    assert all(map(same, contents(tmp_path).values()))
    assert not caplog.text


def test_what_is_no_shard_of_the_store_is_named_with_its_reason(tmp_path, caplog):
    def parse(tensors):
        raise ValueError("it holds no rows")

    write_shard(tmp_path, "a", TENSORS)
    assert list(read_shards(tmp_path, parse)) == []
    assert "it holds no rows" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors.damaged"]


def test_a_folder_that_cannot_be_written_to_is_read_all_the_same(tmp_path, caplog, monkeypatch):
    def refuse(*paths):
        raise PermissionError(13, "Permission denied")

    write_shard(tmp_path, "a", TENSORS)
    (tmp_path / "b.safetensors").write_bytes(b"")
    monkeypatch.setattr(os, "replace", refuse)
    assert [path.name for path in contents(tmp_path)] == ["a.safetensors"]
    assert "cannot be renamed" in caplog.text
