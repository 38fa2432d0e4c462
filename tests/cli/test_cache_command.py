"""`unimur cache`: everything is computed once, whatever kills it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from modeling_unimur.cli.main import main
from modeling_unimur.data.row_store import RowStore
from modeling_unimur.training.alignment_data import cache_recipe
from modeling_unimur.training.context_rows import TextContext
from modeling_unimur.training.recipes import load_recipe
from tests.training.cc3m_files import write_tsv

ROOT = Path(__file__).resolve().parents[2]
IMAGES = 200


@pytest.fixture
def recipe(tmp_path, clip_folder):
    """A recipe on a small CLIP whose language model is nowhere: no feature needs it."""
    train = write_tsv(tmp_path / "data/train.tsv", IMAGES)
    held = write_tsv(tmp_path / "data/held.tsv", 5, seed=1)
    path = tmp_path / "recipe.yaml"
    about = {
        "task": "unimur",
        "model": {"clip": str(clip_folder), "language_model": "nowhere"},
        "data": {
            "sources": [f"cc3m={train}", f"cc3m_validation={held}", f"cc3m_test={held}"],
            "feature_batch_size": 1,
            "feature_shard_rows": 2,
        },
        "training": {"output_dir": str(tmp_path / "run"), "use_cpu": True},
    }
    path.write_text(json.dumps(about))
    return path


def shards(cache, kind):
    return {path: path.stat().st_mtime_ns for path in cache.glob(f"features/{kind}-*/*.safetensors")}


@pytest.mark.slow
def test_killed_it_goes_on_and_computes_nothing_twice(recipe, empty_cache, tmp_path, monkeypatch, capsys):
    command = [sys.executable, "-m", "modeling_unimur.cli.main", "cache", str(recipe), "--device", "cpu"]
    running = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 150
    while len(shards(empty_cache, "pictures")) < 5:
        assert running.poll() is None, running.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    running.send_signal(signal.SIGKILL)
    running.communicate()
    before = shards(empty_cache, "pictures")
    (folder,) = {path.parent for path in before}
    done = len(RowStore(folder))
    assert 10 <= done < IMAGES

    assert main(["cache", str(recipe), "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert f"train, images: {IMAGES} rows of width 48; {done} were there, {IMAGES - done} computed now" in printed
    assert "train: " in printed
    assert f"{IMAGES} usable pairs of 3,318,333 published" in printed
    assert str(folder) in printed
    assert f"images {IMAGES} train, 5 validation, 5 test." in printed
    after = shards(empty_cache, "pictures")
    assert before.items() <= after.items()
    store = RowStore(folder)
    assert len(store) == len(set(store.keys())) == IMAGES + 5

    resumed = cache_recipe(load_recipe(recipe), "cpu", print)
    assert "computed now" in capsys.readouterr().out
    assert shards(empty_cache, "pictures") == after
    monkeypatch.setenv("UNIMUR_CACHE", str(tmp_path / "another"))
    whole = cache_recipe(load_recipe(recipe), "cpu")
    for name, split in whole.items():
        assert resumed[name].texts == split.texts
        torch.testing.assert_close(resumed[name].pooled, split.pooled, atol=0, rtol=0)
        torch.testing.assert_close(resumed[name].text_features, split.text_features, atol=1e-6, rtol=0)


def test_overrides_choose_what_is_kept(recipe, empty_cache, capsys):
    small = ["data.feature_batch_size=16", "data.feature_dtype=bfloat16", "data.feature_shard_rows=100"]
    assert main(["cache", str(recipe), *small, "--device", "cpu"]) == 0
    (folder,) = {path.parent for path in shards(empty_cache, "pictures")}
    assert json.loads((folder / "about.json").read_text())["stored"] == "torch.bfloat16"
    assert len(shards(empty_cache, "pictures")) == 3  # 7 batches of 16, what was left, and the held out ones


def test_unpaired_texts_are_cached_too(recipe, empty_cache, capsys, monkeypatch):
    contexts = {"train": [TextContext(["it purrs"], "a cat"), TextContext(["it meows"], "a cat")], "test": []}
    monkeypatch.setattr("modeling_unimur.training.alignment_data.load_texts", lambda sources: {"glosses": contexts})
    assert main(["cache", str(recipe), "data.feature_batch_size=16", "data.texts=[glosses]", "--device", "cpu"]) == 0
    assert "glosses, texts: 1 rows of width 24; 0 were there, 1 computed now" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["nowhere.yaml"], "nowhere.yaml"),
        (["RECIPE", "data.feature_dtype=int3"], "feature_dtype"),
        (["RECIPE", "data.images=mine"], "'images'"),
        (["RECIPE", "--device", "abacus"], "abacus"),
        (["RECIPE", "model.clip=nowhere"], "nowhere"),
        (["RECIPE", "data.sources=[cc3m=gone.tsv]"], "gone.tsv"),
    ],
)
def test_what_a_person_can_get_wrong_is_one_line(words, named, recipe, empty_cache, capsys):
    assert main(["cache", *(str(recipe) if word == "RECIPE" else word for word in words)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]  # transformers shows its progress before
    assert error.startswith("unimur: ")
    assert named in error
