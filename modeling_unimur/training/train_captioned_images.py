"""Training the image projection and a text map of a frozen dual encoder on captioned images."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from transformers import AutoImageProcessor, AutoTokenizer, set_seed

from ..data.captioned_images import captioned_image_splits
from ..evaluation.metrics import first_right_ranks, recall_at
from ..modeling_open_clip import load_dual_encoder
from .callbacks import TrainingGuard
from .captioned_image_model import CaptionedImageModel
from .clip_rows import ClipRows, Draws, EpochDraws
from .frozen_features import FrozenPictures, FrozenTexts
from .frozen_towers import frozen_towers, project
from .recipes import Recipe
from .trainer import RetrievalTrainer, parameter_report

logger = logging.getLogger(__name__)

# Images of the development split that are ranked, with all of their captions.
_MOST_RANKED = 1000
_MEASURE = "caption_image_r10"


def caption_recalls(images: torch.Tensor, texts: torch.Tensor, owners: torch.Tensor) -> dict[str, float]:
    """Caption -> image and image -> caption recall in percent.

    Args:
        images (`(images, width)`), texts (`(texts, width)`): normalised.
        owners (`(texts,)`): number of each text's image.
    """
    scores, owners = (texts @ images.T).float().cpu().numpy(), owners.numpy()
    numbers = np.arange(len(images))
    found = {
        "caption_image": first_right_ranks(scores, owners, numbers),
        "image_caption": first_right_ranks(scores.T, numbers, owners),
    }
    return {f"{name}_{k}": value for name, ranks in found.items() for k, value in recall_at(ranks).items()}


def train(recipe: Recipe) -> dict:
    """Runs a recipe of task `clip` with `data.images`.

    Writes to `training.output_dir`: the dual encoder with its processors, and `results.json` with the recalls on the
    development split before and after training.

    Raises:
        FileNotFoundError, ValueError: for images that are not there, or a dual encoder that cannot be trained so.
    """
    args, data = recipe.training, recipe.data
    set_seed(args.seed)
    splits = captioned_image_splits(data.images, data.held_out_fraction)
    splits["validation"] = dict(list(splits["validation"].items())[:_MOST_RANKED])
    source = recipe.model.clip
    clip, commit = load_dual_encoder(source, recipe.model.clip_revision, dtype=torch.float32)
    hub = {"revision": commit} if commit else {}
    processors = AutoImageProcessor.from_pretrained(source, **hub), AutoTokenizer.from_pretrained(source, **hub)
    with args.main_process_first(local=False, desc="frozen features"):
        rows, held_out = (_rows(recipe, clip.eval(), *processors, name, captions) for name, captions in splits.items())
    owners = torch.repeat_interleave(torch.arange(len(held_out)), held_out.counts)
    with torch.inference_mode():
        untrained = caption_recalls(
            F.normalize(project(clip, held_out.pooled), dim=-1), F.normalize(held_out.texts, dim=-1), owners
        )
    model = CaptionedImageModel(clip, recipe.model.image_head)
    logger.info("%s", parameter_report(model))

    def recalls(trained: CaptionedImageModel) -> dict[str, float]:
        device = trained.text_map.weight.device
        return caption_recalls(
            trained.image_embeds(held_out.pooled.to(device)), trained.text_embeds(held_out.texts.to(device)), owners
        )

    trainer = RetrievalTrainer(
        model=model,
        args=args,
        train_dataset=rows,
        eval_dataset=held_out,
        recalls=recalls,
        callbacks=[TrainingGuard(model), EpochDraws(rows)],
    )
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    if not trainer.is_world_process_zero():
        return {}
    with torch.inference_mode():
        trained = recalls(model.eval())
    if trained[_MEASURE] < untrained[_MEASURE]:
        logger.warning(
            "%s on the development split fell from %.1f to %.1f %%: the dual encoder does better as it was. Keep it, "
            "or bring more captioned images.",
            _MEASURE,
            untrained[_MEASURE],
            trained[_MEASURE],
        )
    for part in (model.fold(), *processors):
        part.save_pretrained(args.output_dir)
    results = {
        "task": "clip",
        "seed": args.seed,
        "images": {"train": len(rows), "validation": len(held_out)},
        "captions": {"train": len(rows.texts), "validation": len(held_out.texts)},
        "validation_untrained": untrained,
        "validation": trained,
    }
    Path(args.output_dir, "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return results


def _rows(recipe: Recipe, clip, image_processor, tokenizer, name: str, captions: dict[str, list[str]]) -> ClipRows:
    towers, options = frozen_towers(clip, tokenizer), recipe.data.feature_options()
    found = FrozenPictures(towers.picture_tower, towers.encode_pictures, image_processor, options).features(
        list(captions)
    )
    logger.info("%s", found.describe(f"{name}, images"))
    if not len(found.kept):
        raise ValueError(f"{recipe.data.images}: no image of the split {name} can be read: {found.skipped[0][1]}")
    lists = list(captions.values())
    kept = [lists[position] for position in found.kept]
    texts = FrozenTexts(towers.text_tower, towers.encode_texts, options).features(
        [text for row in kept for text in row]
    )
    logger.info("%s", texts.describe(f"{name}, captions"))
    pooled = found.rows.tensor()
    return ClipRows(
        pooled,
        pooled.new_empty(len(pooled), 0, pooled.shape[1]),
        texts.rows.tensor(),
        torch.tensor([len(row) for row in kept]),
        torch.arange(len(kept)),
        Draws(seed=recipe.training.seed, title_share=0.0),
    )


__all__ = ["caption_recalls", "train"]
