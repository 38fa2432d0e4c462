"""Training the projection of a dual encoder between frozen towers."""

import json
import logging
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn import functional as F
from torch.utils.data import Dataset
from transformers import AutoImageProcessor, AutoTokenizer, TrainingArguments, set_seed

from ..evaluation.retrieval_metrics import first_right_ranks, recall_at
from ..modeling_open_clip import OpenCLIPModel
from .guards import TrainingGuard
from .pairs import PicturePairs, load_pairs, project
from .recipes import Recipe
from .trainer import RetrievalTrainer, parameter_report

logger = logging.getLogger(__name__)


class _Rows(Dataset):
    """Every text with its picture."""

    def __init__(self, pairs: PicturePairs):
        self.pairs = pairs

    def __len__(self):
        return len(self.pairs.texts)

    def __getitem__(self, row):
        owner = self.pairs.owners[row]
        return {
            "pooled_features": self.pairs.pooled[owner],
            "text_features": self.pairs.text_features[row],
            "target_ids": self.pairs.groups[owner],
        }


def title_recalls(model, pairs: PicturePairs) -> "dict[str, float]":
    """Title -> picture and picture -> title recall in percent; equal title groups are all right."""
    images = F.normalize(project(model, pairs.pooled), dim=-1)
    titles = F.normalize(pairs.text_features[pairs.title_rows], dim=-1)
    scores, groups = (titles @ images.T).float().numpy(), np.asarray(pairs.groups)
    figures = {}
    for name, matrix in (("title_image", scores), ("image_title", scores.T)):
        figures.update({f"{name}_{k}": v for k, v in recall_at(first_right_ranks(matrix, groups, groups)).items()})
    return figures


def train(recipe: Recipe) -> "dict[str, float]":
    """Runs a recipe of task `clip`.

    Writes to `training.output_dir`: the model, `projection.safetensors` with the trained tensors alone, and
    `results.json` with the recalls of the trained and of the untrained projection on the test split.
    """
    args: TrainingArguments = recipe.training
    set_seed(args.seed)
    source = recipe.model.clip
    model = OpenCLIPModel.from_pretrained(source)
    for tower in (model.model.visual.trunk, model.model.text):
        tower.requires_grad_(False)
    image_processor, tokenizer = AutoImageProcessor.from_pretrained(source), AutoTokenizer.from_pretrained(source)
    splits = load_pairs(model, image_processor, tokenizer, recipe.data.sources)
    logger.info("%s", parameter_report(model))
    with torch.inference_mode():
        untrained = title_recalls(model.eval(), splits["test"])
    trainer = RetrievalTrainer(
        model=model,
        args=args,
        train_dataset=_Rows(splits["train"]),
        eval_dataset=_Rows(splits["validation"]),
        recalls=lambda m: title_recalls(m, splits["validation"]),
        callbacks=[TrainingGuard(model)],
    )
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    with torch.inference_mode():
        trained = title_recalls(model.eval(), splits["test"])
    output = Path(args.output_dir)
    model.save_pretrained(output)
    for part in (image_processor, tokenizer):
        part.save_pretrained(output)
    trained_tensors = {name: p.detach().contiguous() for name, p in model.named_parameters() if p.requires_grad}
    save_file(trained_tensors, output / "projection.safetensors", metadata={"format": "pt"})
    counts = {name: len(pairs.paths) for name, pairs in splits.items()}
    results = {"task": "clip", "seed": args.seed, "pictures": counts, "test": trained, "test_untrained": untrained}
    (output / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return results


__all__ = ["title_recalls", "train"]
