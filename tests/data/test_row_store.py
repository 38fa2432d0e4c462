"""Rows on disk: found by key, gathered by number, mapped and not read."""

import pickle

import numpy as np
import pytest
import torch

from modeling_unimur.data import row_store
from modeling_unimur.data.row_store import KEY_TYPE, RowStore, key_of


def keys(count, name="row"):
    return [key_of(f"{name} {number}") for number in range(count)]


def packed(names):
    return np.array(names, dtype=KEY_TYPE)


@pytest.fixture
def filled(tmp_path):
    """Fifty rows in five shards."""
    rows = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    store = RowStore(tmp_path / "store")
    for start in range(0, 50, 10):
        store.append(keys(50)[start : start + 10], rows[start : start + 10])
    return store, rows


@pytest.mark.parametrize("opened_anew", [False, True])
def test_rows_are_found_and_gathered_in_any_order(filled, opened_anew):
    store, rows = filled
    store = RowStore(store.folder) if opened_anew else store
    order = [49, 3, 3, 17, 0]
    numbers = store.find(packed([keys(50)[number] for number in order]))
    found = store.rows(numbers)
    assert found.shape == (5, 6)
    assert torch.equal(found.tensor(), rows[order])
    assert torch.equal(found[2], rows[3])
    assert torch.equal(found[torch.tensor(-1)], rows[0])
    assert torch.equal(found[torch.tensor([4, 0])], rows[[0, 49]])
    assert torch.equal(found[1:4], rows[[3, 3, 17]])
    assert found[[]].shape == (0, 6)
    assert key_of("row 12") in store
    assert key_of("no row") not in store
    assert store.find(packed([key_of("no row"), key_of("row 1")]))[0] == -1


def test_many_shards_are_merged_in_the_search(tmp_path, monkeypatch):
    monkeypatch.setattr(row_store, "_RUNS", 3)
    store = RowStore(tmp_path)
    for number, key in enumerate(keys(11)):
        store.append([key], torch.full((1, 2), float(number)))
    assert len(store._runs) <= 3
    assert store.rows(store.find(packed(keys(11)))).tensor()[:, 0].tolist() == list(range(11))
    assert sorted(store.keys()) == sorted(keys(11))


def test_two_writers_of_one_folder_do_not_disturb_each_other(tmp_path):
    first, second = RowStore(tmp_path), RowStore(tmp_path)
    first.append(keys(3), torch.zeros(3, 2))
    second.append(keys(3)[1:] + keys(2, "other"), torch.ones(4, 2))
    both = RowStore(tmp_path)
    assert len(both) == 7
    assert (both.find(packed(keys(3) + keys(2, "other"))) >= 0).all()


def test_half_written_shard_is_not_there(filled):
    store, _ = filled
    (store.folder / ".0123.456").write_bytes(b"half a shard")
    assert len(RowStore(store.folder)) == 50


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"x" + data[1:]])
def test_damaged_shard_is_named(filled, damage):
    store, _ = filled
    shard = sorted(store.folder.glob("*.safetensors"))[2]
    shard.write_bytes(damage(shard.read_bytes()))
    with pytest.raises(ValueError, match=f"{shard.name}.*delete"):
        RowStore(store.folder)


def test_rows_travel_to_another_process_as_numbers(filled):
    store, _ = filled
    found = store.rows(store.find(packed(keys(50)))).map(torch.nn.Linear(6, 3), 3)
    found[0]
    data = pickle.dumps(found)
    assert len(data) < 6000
    assert torch.equal(pickle.loads(data).tensor(), found.tensor())
    assert found.shape == (50, 3)


def test_bfloat16_rows_are_within_their_tolerance(tmp_path):
    rows = torch.randn(2000, 64, generator=torch.Generator().manual_seed(0))
    store = RowStore(tmp_path, torch.bfloat16)
    store.append(keys(2000), rows)
    found = store.rows(store.find(packed(keys(2000)))).tensor()
    assert found.dtype == torch.float32
    assert not torch.equal(found, rows)
    assert ((found - rows).abs() <= 2**-8 * rows.abs()).all()
    assert torch.nn.functional.cosine_similarity(found.double(), rows.double()).min() > 1 - 1e-5
    (shard,) = tmp_path.glob("*.safetensors")
    assert shard.stat().st_size < 2000 * (64 * 2 + 16) + 1000


def test_gathering_reads_only_what_is_asked(tmp_path):
    status = "/proc/self/status"
    try:
        resident = lambda: int(open(status).read().split("VmRSS:")[1].split()[0]) / 1024  # noqa: E731, SIM115
        resident()
    except OSError:
        pytest.skip("this system does not say how much memory a process holds")
    store = RowStore(tmp_path)
    for part in range(4):
        store.append(keys(20_000, f"part {part}"), torch.ones(20_000, 256))  # 20 MB each
    store = RowStore(tmp_path)
    before = resident()
    found = store.rows(store.find(packed(keys(10, "part 1") + keys(10, "part 3"))))
    assert found.tensor().sum() == 20 * 256
    assert resident() - before < 25
    whole = RowStore(tmp_path).rows(np.arange(80_000)).tensor()
    assert resident() - before > 60  # the measure sees what the whole takes
    assert whole.shape == (80_000, 256)


def test_gathered_rows_take_part_in_training(filled):
    store, _ = filled
    with torch.inference_mode():
        rows = store.rows(np.arange(4)).tensor()
    layer = torch.nn.Linear(6, 1)
    layer(rows).sum().backward()
    assert layer.weight.grad is not None
