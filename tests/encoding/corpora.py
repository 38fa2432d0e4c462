"""Small corpora, and what is asked of an index of them."""

import os
from pathlib import Path

import numpy as np
from PIL import Image

from modeling_unimur.encoding.build import BuildOptions
from modeling_unimur.encoding.encoder import Encoder
from modeling_unimur.index import open_index

QUICK = {"batch_size": 3, "chunk_size": 4, "workers": 0}


class CountingEncoder(Encoder):
    """Counts the contents that its model sees, in a file if that is named: several processes may count."""

    def __init__(self, *parts, log: "Path | None" = None):
        super().__init__(*parts)
        self.seen, self.log = 0, log

    def vectors(self, kind, inputs):
        found = super().vectors(kind, inputs)
        self.seen += len(found)
        if self.log is not None:
            with open(self.log, "ab", buffering=0) as file:
                file.write(b"." * len(found))
                os.fsync(file.fileno())
        return found


def options(**changes) -> BuildOptions:
    return BuildOptions(**{**QUICK, **changes})


def picture(path: Path, seed: int) -> Path:
    """A picture unlike those of other seeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (24, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def image_folder(folder: Path, count: int) -> Path:
    """Pictures `a/0.png`, `b/1.png`, `a/2.png`, ..."""
    for number in range(count):
        picture(folder / "ab"[number % 2] / f"{number}.png", number)
    return folder


def content(uri, **extra) -> dict:
    """Everything an index holds: `(kind, id)` to payload and vector, as its own search gives them."""
    with open_index(uri, read_only=True, **extra) as index:
        if not len(index):
            return {}
        basis = np.eye(index.width, dtype=np.float32)
        found: dict = {}
        for axis, hits in enumerate(index.search(basis, len(index))):
            for hit in hits:
                _, vector = found.setdefault((hit.kind, hit.id), (hit.payload, np.zeros(index.width)))
                vector[axis] = hit.score
        return found


def assert_same_content(found: dict, expected: dict, tolerance: float = 1e-6) -> None:
    """The same ids and payloads, and vectors that differ by rounding at most."""
    assert sorted(found) == sorted(expected)
    for key, (payload, vector) in expected.items():
        assert found[key][0] == payload, key
        np.testing.assert_allclose(found[key][1], vector, atol=tolerance, err_msg=str(key))
