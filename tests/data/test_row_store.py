"""Rows on disk: found by key, gathered by number, mapped and not read."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from modeling_unimur.data import row_store
from modeling_unimur.data.row_store import KEY_TYPE, RowStore, key_of

ROOT = Path(__file__).resolve().parents[2]


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


def test_a_damaged_shard_costs_its_own_rows_alone(filled, caplog):
    store, rows = filled
    shard = sorted(store.folder.glob("*.safetensors"))[2]
    shard.write_bytes(shard.read_bytes()[:-1])
    again = RowStore(store.folder)
    assert len(again) == 40
    lost = np.flatnonzero(~again.holds(keys(50)))
    assert len(lost) == 10
    assert shard.name in caplog.text
    again.append([keys(50)[number] for number in lost], rows[lost])
    assert torch.equal(again.rows(again.find(packed(keys(50)))).tensor(), rows)


def test_the_same_keys_in_another_order_leave_mapped_rows_alone(tmp_path):
    first, second = RowStore(tmp_path), RowStore(tmp_path)
    first.append(keys(3), torch.arange(6.0).reshape(3, 2))
    found = first.rows(first.find(packed(keys(3))))
    second.append(keys(3)[::-1], torch.arange(6.0).reshape(3, 2).flip(0))
    assert torch.equal(found.tensor(), torch.arange(6.0).reshape(3, 2))


def test_rows_of_others_are_taken_in(filled):
    store, rows = filled
    later = RowStore(store.folder)
    store.append(keys(2, "new"), torch.zeros(2, 6))
    assert not later.holds(keys(2, "new")).any()
    later.refresh()
    later.refresh()
    assert len(later) == 52
    assert torch.equal(later.rows(later.find(packed(keys(2, "new") + keys(50)[:1]))).tensor()[2], rows[0])


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


_GATHERING = """
import json, sys
import numpy as np
from pathlib import Path
from tests.data.test_row_store import RowStore, keys, packed

def resident():
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) / 1024

store = RowStore(Path(sys.argv[1]))
before = resident()
found = store.rows(store.find(packed(keys(10, "part 1") + keys(10, "part 3")))).tensor()
few = resident() - before
whole = store.rows(np.arange(80_000)).tensor()
print(json.dumps({"sum": found.sum().item(), "few": few, "rows": len(whole), "whole": resident() - before}))
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="no /proc tells how much memory a process holds")
def test_gathering_reads_only_what_is_asked(tmp_path):
    store = RowStore(tmp_path)
    for part in range(4):
        store.append(keys(20_000, f"part {part}"), torch.ones(20_000, 256))  # 20 MB each
    # In a process of its own: this one may hold free memory, which takes rows without growing.
    made = subprocess.run(
        [sys.executable, "-c", _GATHERING, tmp_path], capture_output=True, text=True, check=True, cwd=ROOT
    )
    found = json.loads(made.stdout.splitlines()[-1])
    assert found["sum"] == 20 * 256
    assert found["rows"] == 80_000
    assert found["few"] < 25
    assert found["whole"] > 60  # the measure sees what the whole takes


def test_gathered_rows_take_part_in_training(filled):
    store, _ = filled
    with torch.inference_mode():
        rows = store.rows(np.arange(4)).tensor()
    layer = torch.nn.Linear(6, 1)
    layer(rows).sum().backward()
    assert layer.weight.grad is not None
