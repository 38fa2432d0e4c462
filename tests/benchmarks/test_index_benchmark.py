"""The quick run of the index benchmark: its figures, its vectors, and that it writes nothing."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest

from benchmarks.harness import RESULTS, ROOT
from benchmarks.index import EFFORTS, jittered, vectors_like_embeddings

PARTS = ("exact", "ann", "milvus")
TUNED = [f"ann_{EFFORTS['ann'][0]}{value}" for value in EFFORTS["ann"][1]]
FIGURES = {
    "vectors",
    "reference_spread",
    "busy_retries",
    "other_cores",
    *(f"{name}_{figure}" for name in PARTS for figure in ("build_seconds", "mib", "recall_at_10")),
    *(f"{name}_microseconds_b{size}" for name in ("raw", *PARTS, *TUNED) for size in (1, 64)),
    *(f"{name}_recall_at_10" for name in TUNED),
    *(f"search_overhead_percent_b{size}" for size in (1, 64)),
}


@pytest.mark.slow
def test_quick_run():
    before = sorted((path, path.stat().st_mtime_ns) for path in RESULTS.glob("*"))
    command = [sys.executable, "benchmarks/index.py", "--quick", "--vectors", "3000"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    figures = json.loads(done.stdout.splitlines()[-1])
    assert set(figures) == FIGURES
    assert all(math.isfinite(value) for value in figures.values())
    assert all(figures[name] > 0 for name in FIGURES if "microseconds" in name or "seconds" in name)
    assert figures["exact_recall_at_10"] == figures["milvus_recall_at_10"] == 1
    assert figures["ann_recall_at_10"] >= 0.97
    recalls = [figures[f"{name}_recall_at_10"] for name in TUNED]
    assert recalls == sorted(recalls)
    assert figures["vectors"] == 3000
    # The vectors alone, and not much more: ids, payloads and, for the approximate one, its links.
    mib = 3000 * 384 * 4 / 2**20
    assert mib < figures["exact_mib"] < mib + 6
    assert mib < figures["ann_mib"] < mib + 12
    assert sorted((path, path.stat().st_mtime_ns) for path in RESULTS.glob("*")) == before


def test_vectors_have_neighbours(tmp_path):
    rng = np.random.default_rng(0)
    real = rng.normal(size=(30, 48)).astype(np.float32)
    np.save(tmp_path / "real.npy", real)
    made = vectors_like_embeddings(2000, tmp_path / "real.npy", rng)
    np.testing.assert_allclose(np.linalg.norm(made, axis=1), 1, atol=1e-5)
    nearest = (made @ (real / np.linalg.norm(real, axis=1, keepdims=True)).T).max(1)
    assert 0.8 < nearest.mean() < 0.92
    moved = jittered(made, 0.3, rng)
    assert 0.94 < float((moved * made).sum(1).mean()) < 0.97
