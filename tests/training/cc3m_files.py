"""A few captioned pictures in FROMAGe's TSV."""

from pathlib import Path

import numpy as np
from PIL import Image

_COLOURS = ("red", "green", "blue", "yellow", "purple", "grey")
_THINGS = ("cat", "balloon", "lighthouse", "cake", "guitar", "morning", "town", "keyboard", "boat", "tree")


def captions(count: int) -> "list[str]":
    """Different captions."""
    names = [f"a {colour} {thing}" for thing in _THINGS for colour in _COLOURS]
    return [
        names[number % len(names)] + (f" {number // len(names)}" * (number >= len(names))) for number in range(count)
    ]


def write_tsv(path: Path, count: int, seed: int = 0, side: int = 32) -> Path:
    """A TSV of `count` pairs with its pictures in `images`, all different; the folder is made."""
    rng = np.random.default_rng(seed)
    (path.parent / "images").mkdir(parents=True, exist_ok=True)
    lines = ["caption\timage"]
    for number, caption in enumerate(captions(count)):
        name = f"{path.stem}_{number}.png"
        Image.fromarray(rng.integers(0, 255, (side, side, 3), dtype=np.uint8)).save(path.parent / "images" / name)
        lines.append(f"{caption}\t{name}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
