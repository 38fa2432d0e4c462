"""A recipe that trains the small random backbones on a folder of small pictures in seconds."""

import itertools
import json
from pathlib import Path

import numpy as np
from PIL import Image

_COLOURS = ("red", "green", "blue", "yellow", "purple", "grey", "white", "orange")
_THINGS = (
    *("cat", "balloon", "lighthouse", "cake", "guitar", "morning", "town", "keyboard"),
    *("tree", "house", "boat", "bird", "chair", "flower", "clock", "bridge"),
)


def write_pictures(folder: Path) -> Path:
    """A picture for each pair of words, with its caption; the split by title gives every part some."""
    folder.mkdir(parents=True)
    rng, lines = np.random.default_rng(0), ["file\tcaption"]
    for number, (colour, thing) in enumerate(itertools.product(_COLOURS, _THINGS)):
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(folder / f"{number}.png")
        lines.append(f"{number}.png\ta {colour} {thing}")
    (folder / "captions.tsv").write_text("\n".join(lines) + "\n")
    return folder


def write_recipe(path: Path, pictures: Path, language_model: Path, clip: Path, **training) -> Path:
    """A recipe of task `unimur`; JSON is YAML."""
    recipe = {
        "task": "unimur",
        "model": {"language_model": str(language_model), "clip": str(clip)},
        "data": {"sources": [f"folder={pictures}"], "captions_per_batch": 4, "concatenate_captions": 0.5},
        "training": {
            "per_device_train_batch_size": 8,
            "learning_rate": 0.01,
            "max_steps": 16,
            "lr_scheduler_type": "cosine",
            "warmup_steps": 3,
            "logging_steps": 1,
            "eval_strategy": "steps",
            "eval_steps": 4,
            "save_strategy": "steps",
            "save_steps": 4,
            "load_best_model_at_end": True,
            "metric_for_best_model": "title_image_r1",
            "greater_is_better": True,
            "dataloader_drop_last": True,
            "use_cpu": True,
            "seed": 0,
            **training,
        },
    }
    path.write_text(json.dumps(recipe))
    return path
