"""A small retrieval set of texts and captioned pictures, and a recipe that trains on it in seconds."""

from pathlib import Path

import numpy as np
import yaml
from datasets import Dataset
from PIL import Image

from modeling_unimur.data.retrieval_set import RetrievalSet

_COLOURS = ("red", "green", "blue", "yellow")
_THINGS = ("cat", "balloon", "lighthouse", "cake", "guitar", "town")
_SPLITS = ("train", "train", "train", "train", "validation", "test")


def write_set(folder: Path) -> Path:
    """Each thing in each colour is a text and a picture; text queries ask for texts, picture queries for pictures.

    Documents of one thing are a group. The first text query excludes the red cat's picture.
    """
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    corpus, queries, qrels = [], {}, {}
    for thing, split in zip(_THINGS, _SPLITS, strict=True):
        for colour in _COLOURS:
            name = f"{colour}-{thing}"
            Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(folder / f"{name}.png")
            corpus.append(
                {"doc_id": f"text-{name}", "kind": "text", "text": f"about the {colour} {thing}", "image": ""}
            )
            corpus.append(
                {"doc_id": f"image-{name}", "kind": "image", "text": f"{thing} in {colour}", "image": f"{name}.png"}
            )
            for kind in ("text", "image"):
                query = f"{kind}-query-{name}"
                queries.setdefault(split, []).append(
                    {
                        "query_id": query,
                        "text": f"{'do you have a picture of' if kind == 'image' else 'what is'} a {colour} {thing}",
                        "kind": kind,
                        "excluded": ["image-red-cat"] if query == "text-query-red-cat" else [],
                    }
                )
                qrels.setdefault(split, []).append({"query_id": query, "doc_id": f"{kind}-{name}", "score": 1})
    for row in corpus:
        row["group"] = row["doc_id"].rsplit("-", 1)[1]
    pairs = [
        {"query_id": "lead", "text": "she plays", "positive": "guitar in the morning", "doc_id": "text-red-guitar"}
    ]
    made = RetrievalSet.from_rows(queries, corpus, qrels)
    made.pairs = {"train": Dataset.from_list(pairs)}
    made.save(folder)
    return folder


def write_recipe(
    path: Path, folder: Path, clip: Path, model: dict | None = None, data: dict | None = None, **training
):
    """A recipe of task `univl_dr`."""
    recipe = {
        "task": "univl_dr",
        "model": {"clip": str(clip), **(model or {})},
        "data": {"retrieval": f"folder={folder}", "mining_drop_same_group": False, **(data or {})},
        "training": {
            "output_dir": str(path.with_suffix("")),
            "per_device_train_batch_size": 8,
            "learning_rate": 0.002,
            "adam_beta2": 0.98,
            "adam_epsilon": 1e-6,
            "weight_decay": 0.2,
            "lr_scheduler_type": "cosine",
            "max_steps": 6,
            "logging_steps": 1,
            "eval_strategy": "steps",
            "eval_steps": 3,
            "save_strategy": "steps",
            "save_steps": 3,
            "load_best_model_at_end": True,
            "metric_for_best_model": "mrr_10",
            "greater_is_better": True,
            "dataloader_drop_last": True,
            "use_cpu": True,
            "seed": 0,
            **training,
        },
    }
    path.write_text(yaml.safe_dump(recipe))  # JSON's 1e-06 is a word in YAML
    return path
