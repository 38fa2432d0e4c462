"""An index of small made-up items whose vectors follow from their words, so that little can learn it."""

import itertools

import numpy as np

COLOURS = ("red", "green", "blue", "yellow", "purple", "grey", "white", "orange")
THINGS = ("cat", "balloon", "lighthouse", "cake", "guitar", "morning", "town", "keyboard")
WIDTH = 12


def texts() -> list[str]:
    """Sixty-four texts."""
    return [f"a {colour} {thing}" for colour, thing in itertools.product(COLOURS, THINGS)]


def vectors(shift: int = 0) -> np.ndarray:
    """Their vectors, each the sum of its two words' and normalised; another shift gives another space."""
    rng = np.random.default_rng(shift)
    words = {word: rng.normal(size=WIDTH) for word in (*COLOURS, *THINGS)}
    found = np.stack([sum(words[word] for word in text.split()[1:]) for text in texts()])
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)
