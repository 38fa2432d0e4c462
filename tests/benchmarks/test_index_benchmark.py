"""The quick run of the index benchmark: its figures, its vectors, and that it writes nothing."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest

from benchmarks.harness import RESULTS, ROOT
from benchmarks.index import EFFORTS, PRECISIONS, jittered, truncated, vectors_like_embeddings

PARTS = ("exact", "ann", "milvus", *PRECISIONS)
TUNED = {part: [f"{part}_{EFFORTS[part][0]}{value}" for value in EFFORTS[part][1]] for part in ("ann", "binary")}
EVERY_TUNED = [name for tuned in TUNED.values() for name in tuned]
FIGURES = {
    "vectors",
    "reference_spread",
    "busy_retries",
    "other_cores",
    *(f"{name}_{figure}" for name in PARTS for figure in ("build_seconds", "mib", "recall_at_10")),
    *(f"{name}_microseconds_b{size}" for name in ("raw", *PARTS, *EVERY_TUNED) for size in (1, 64)),
    *(f"{name}_recall_at_10" for name in EVERY_TUNED),
    *(f"search_overhead_percent_b{size}" for size in (1, 64)),
    *(f"{name}_{figure}" for name in PRECISIONS for figure in ("bytes", "mapped_bytes")),
    *(f"hybrid_{figure}" for figure in ("words_seconds", "words_mib", "vectors_ms", "hybrid_ms", "overhead_ms")),
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
    for tuned in TUNED.values():
        recalls = [figures[f"{name}_recall_at_10"] for name in tuned]
        assert recalls == sorted(recalls)
    assert figures["float32_recall_at_10"] == 1
    assert figures["int8_recall_at_10"] >= 0.98
    assert figures["binary_recall_at_10"] >= 0.95  # of jitter, which is harder than real vectors
    assert figures["binary_rescore_multiplier16_recall_at_10"] >= 0.98
    sizes = {name: (figures[f"{name}_bytes"], figures[f"{name}_mapped_bytes"]) for name in PRECISIONS}
    assert sizes == {"float32": (1536, 0), "int8": (388, 0), "binary": (48, 384)}
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


def test_truncated_vectors_are_of_length_one():
    rows = jittered(np.eye(8, dtype=np.float32), 0.3, np.random.default_rng(0))
    cut = truncated(rows, 3)
    np.testing.assert_allclose(cut, rows[:, :3] / np.linalg.norm(rows[:, :3], axis=1, keepdims=True))
    assert truncated(rows, 8) is rows
