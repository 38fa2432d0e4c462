"""The quick run of the encoding benchmark: its figures, and that it writes nothing."""

import json
import math
import subprocess
import sys

import pytest

from benchmarks.harness import RESULTS, ROOT
from tests.encoding.corpora import image_folder

FIGURES = {
    "other_cores",
    "encode_over_backbone",
    "model_share",
    "second_run_fraction",
    "pictures",
    "skipped",
    "encoded",
    "workers",
    "threads",
    "pictures_per_second",
    "backbone_pictures_per_second",
    "build_seconds",
    *(f"{name}_{count}" for name in ("peak_mib", "worker_peak_mib") for count in (1000, 8000)),
}


@pytest.mark.slow
def test_quick_run(release, tmp_path):
    before = sorted((path, path.stat().st_mtime_ns) for path in RESULTS.glob("*"))
    images = image_folder(tmp_path / "pictures", 24)
    (images / "a" / "0.png").write_bytes(b"no picture")
    options = ["--images", str(images), "--model", str(release), "--workers", "1"]
    command = [sys.executable, "benchmarks/encoding.py", "--quick", *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    figures = json.loads(done.stdout.splitlines()[-1])
    assert set(figures) == FIGURES
    assert all(math.isfinite(value) for value in figures.values())
    assert (figures["pictures"], figures["skipped"], figures["workers"]) == (23, 1, 1)
    assert figures["peak_mib_1000"] > 50
    assert 0 < figures["second_run_fraction"] < 1
    assert 0 < figures["model_share"] < 1
    assert sorted((path, path.stat().st_mtime_ns) for path in RESULTS.glob("*")) == before
