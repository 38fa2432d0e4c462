"""Unit vectors that look like embeddings: centres with neighbours, not white noise."""

import numpy as np


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def random_units(rows: int, width: int = 16, seed: int = 0) -> np.ndarray:
    return unit(np.random.default_rng(seed).normal(size=(rows, width)))


def jittered(rows: int, width: int = 32, centres: int = 50, noise: float = 0.6, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    middles = random_units(centres, width, seed=7)
    return unit(middles[rng.integers(centres, size=rows)] + noise * random_units(rows, width, seed + 1))
