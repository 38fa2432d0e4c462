"""Trains the projection of a dual encoder between frozen towers."""

import json
import logging
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn import functional as F
from transformers import AutoImageProcessor, AutoTokenizer, TrainingArguments, set_seed

from modeling_unimur.data.atomic_files import write_json
from modeling_unimur.data.captioned_images import load_captioned_images
from modeling_unimur.data.titles import split_by_title
from modeling_unimur.evaluation.metrics import first_right_ranks, recall_at
from modeling_unimur.modeling_open_clip import OpenCLIPModel
from modeling_unimur.training.callbacks import EpochDraws, TrainingGuard
from modeling_unimur.training.frozen_towers import project
from modeling_unimur.training.pairs import ImagePairs, load_pairs
from modeling_unimur.training.recipes import Recipe
from modeling_unimur.training.trainer import RetrievalTrainer, parameter_report

from .image_gate import fit_gate, open_gate
from .images import joined, near_twins
from .rows import clip_rows

logger = logging.getLogger(__name__)


def title_ranks(model, pairs: ImagePairs, groups=None) -> "dict[str, np.ndarray]":
    """Returns the rank `(images,)` of the first correct result, from title to image and from image to title.

    Ranks begin with 1. Items with equal numbers in `groups` `(images,)`, by default the title groups, are correct
    results for each other.
    """
    images = F.normalize(project(model, pairs.pooled[:]), dim=-1)
    titles = F.normalize(pairs.text_features[pairs.title_rows], dim=-1)
    scores, groups = (titles @ images.T).float().numpy(), np.asarray(pairs.groups if groups is None else groups)
    return {
        name: first_right_ranks(matrix, groups, groups)
        for name, matrix in (("title_image", scores), ("image_title", scores.T))
    }


def title_recalls(model, pairs: ImagePairs, groups=None) -> "dict[str, float]":
    """Returns recalls in percent, from title to image and from image to title (see `title_ranks`)."""
    ranks = title_ranks(model, pairs, groups)
    return {f"{name}_{k}": v for name, found in ranks.items() for k, v in recall_at(found).items()}


def twin_groups(pairs: ImagePairs) -> torch.Tensor:
    """Returns group numbers `(images,)` that are equal within a title group and for images that look alike."""
    titles = pairs.text_features[pairs.title_rows]
    seen: dict[int, int] = {}
    first = [seen.setdefault(int(group), number) for number, group in enumerate(pairs.groups)]
    return joined(first, near_twins(pairs.pooled[:], titles, pairs.pooled[:], titles))


def trained_state(model) -> "dict[str, torch.Tensor]":
    """Returns the tensors that a run of the task `clip` changes: the trained ones, and the fitted gate of the head."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return trained | {name: b for name, b in model.named_buffers() if ".head.gate." in name}


def train(recipe: Recipe) -> "dict[str, float]":
    """Runs a recipe of the task `clip`, and returns the recalls that `results.json` holds.

    These files are written to `training.output_dir`:

    - the model;
    - `projection.safetensors` with only the trained tensors, in float16;
    - `results.json` with the recalls of the trained and of the untrained projection on the test split. Images of one
      title group are correct results for each other in `test`, only a title's own image is one in `test_own`, and
      near-twins are too in `test_twins`;
    - `ranks.json` with the rank of each test image.
    """
    args: TrainingArguments = recipe.training
    set_seed(args.seed)
    source = recipe.model.clip
    model = OpenCLIPModel.from_pretrained(source)
    # The classifier of an `ImageHead` is the one of the frozen tower.
    for part in (model.model.visual.trunk, model.model.text, getattr(model.model.visual.head, "classifier", None)):
        if part is not None:
            part.requires_grad_(False)
    image_processor, tokenizer = AutoImageProcessor.from_pretrained(source), AutoTokenizer.from_pretrained(source)
    with args.main_process_first(local=False, desc="frozen features"):  # the other processes read its files
        splits = load_pairs(
            model,
            image_processor,
            tokenizer,
            recipe.data.sources,
            options=recipe.data.feature_options(),
            held_out_fraction=recipe.data.held_out_fraction,
        )
        parts = split_by_title(load_captioned_images(recipe.data.sources))
        rows = clip_rows(
            model,
            image_processor,
            tokenizer,
            parts["train"].filter(lambda row: bool(row["title"].strip())),
            [row for name in ("validation", "test") for row in parts[name]],
            args.seed,
            recipe.data.title_share,
        )
    gate = getattr(getattr(model.model.visual, "head", None), "gate", None)
    if gate is not None:
        open_gate(gate)  # the gate does not take part in training
    logger.info("%s", parameter_report(model))
    with torch.inference_mode():
        untrained = title_recalls(model.eval(), splits["test"])
    trainer = RetrievalTrainer(
        model=model,
        args=args,
        train_dataset=rows,
        eval_dataset=splits["validation"].titles,  # evaluation is retrieval and uses `recalls`
        recalls=lambda m: title_recalls(m, splits["validation"]),
        callbacks=[TrainingGuard(model), EpochDraws(rows)],
    )
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    output = Path(args.output_dir)
    if gate is not None:
        fit_gate(gate, rows.pooled)
    with torch.no_grad():
        for tensor in trained_state(model).values():  # model and results then match the float16 file
            tensor.copy_(tensor.half())
    if not trainer.is_world_process_zero():
        return {}
    model.save_pretrained(output)
    for part in (image_processor, tokenizer):
        part.save_pretrained(output)
    trained_tensors = {name: p.detach().half().contiguous() for name, p in trained_state(model).items()}
    save_file(trained_tensors, output / "projection.safetensors", metadata={"format": "pt"})
    results = {
        "task": "clip",
        "seed": args.seed,
        "pictures": {name: len(pairs.paths) for name, pairs in splits.items()} | {"trained_on": len(rows)},
        **_judged(model.eval(), splits, output),
        "test_untrained": untrained,
    }
    write_json(output / "results.json", results)
    return results


@torch.inference_mode()
def _judged(model, splits: "dict[str, ImagePairs]", output: Path) -> dict:
    pairs = splits["test"]
    ranks = {name: found.tolist() for name, found in title_ranks(model, pairs).items()}
    (output / "ranks.json").write_text(json.dumps(ranks) + "\n", encoding="utf-8")
    return {
        "validation": title_recalls(model, splits["validation"]),
        "test": title_recalls(model, pairs),
        "test_own": title_recalls(model, pairs, torch.arange(len(pairs.groups))),
        "test_twins": title_recalls(model, pairs, twin_groups(pairs)),
    }
