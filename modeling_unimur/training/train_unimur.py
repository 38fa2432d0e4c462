"""Dual alignment training of UniMuR's heads."""

import json
import logging
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from tqdm.auto import tqdm
from transformers import AutoImageProcessor, AutoModelForCausalLM, AutoTokenizer, TrainingArguments, set_seed

from ..evaluation.retrieval_metrics import first_right_ranks, recall_at
from ..modeling_unimur import UniMuRModel
from ..processing_unimur import UniMuRProcessor
from .collators import ContextRows, DualAlignmentCollator
from .guards import TrainingGuard
from .pairs import PicturePairs, load_pairs, project
from .recipes import Recipe
from .trainer import RetrievalTrainer, parameter_report

logger = logging.getLogger(__name__)


@torch.inference_mode()
def embed_texts_as_contexts(model, processor, texts: "list[str]", batch_size: int = 64) -> torch.Tensor:
    """Unified embeddings `(texts, width)` of plain texts, in batches of like length."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    parts = []
    for start in tqdm(range(0, len(order), batch_size), desc="Embedding contexts", leave=False):
        batch = processor.process_rendered([texts[i] for i in order[start : start + batch_size]])
        parts.append(model.get_multimodal_features(**batch).pooler_output)
    embeds = torch.cat(parts)
    return torch.empty_like(embeds).index_copy_(0, torch.tensor(order), embeds)


def recalls(model, processor, pairs: PicturePairs, image_targets: torch.Tensor) -> "dict[str, float]":
    """From a title as the context: its picture among all pictures, its text among all titles, and what the dual
    encoder's own text tower finds; recalls in percent."""
    queries = embed_texts_as_contexts(model, processor, pairs.titles)
    images = F.normalize(image_targets, dim=-1)
    titles = F.normalize(pairs.text_features[pairs.title_rows], dim=-1)
    groups, figures = np.asarray(pairs.groups), {}
    for name, left, right in (
        ("title_image", queries, images),
        ("title_title", queries, titles),
        ("clip_title_image", titles, images),
    ):
        ranks = first_right_ranks((left @ right.T).float().numpy(), groups, groups)
        figures.update({f"{name}_{key}": value for key, value in recall_at(ranks).items()})
    return figures


def train(recipe: Recipe) -> "dict[str, float]":
    """Runs a recipe of task `unimur`.

    Writes to `training.output_dir`: the heads with their configuration and processor, and `results.json` with recalls
    of the trained and the untrained heads on the test split.
    """
    args: TrainingArguments = recipe.training
    set_seed(args.seed)
    language, clip = recipe.model.language_model, recipe.model.clip
    revisions = {
        "language_model_revision": recipe.model.language_model_revision,
        "clip_revision": recipe.model.clip_revision,
    }
    processor = UniMuRProcessor.from_backbones(language, clip, **revisions, **recipe.model.processor)
    frozen = AutoModelForCausalLM.from_pretrained(
        language,
        revision=recipe.model.language_model_revision,
        dtype=getattr(torch, recipe.model.language_model_dtype),
    )
    model = UniMuRModel.from_backbones(
        frozen, clip, processor=processor, clip_revision=recipe.model.clip_revision, **recipe.model.config
    )
    model.config.heads_only = True  # checkpoints need not repeat what never changes
    splits = load_pairs(
        model.clip, AutoImageProcessor.from_pretrained(clip), AutoTokenizer.from_pretrained(clip), recipe.data.sources
    )
    with torch.inference_mode():
        projected = {name: project(model.clip, pairs.pooled) for name, pairs in splits.items()}
    projected = {name: features.clone() for name, features in projected.items()}
    logger.info("%s", parameter_report(model))

    def measure(split: str) -> "dict[str, float]":
        return recalls(model, processor, splits[split], projected[split])

    untrained = measure("test")
    pooled = model.config.visual_feature == "pooled"
    train_pairs = splits["train"]
    trainer = RetrievalTrainer(
        model=model,
        args=args,
        data_collator=DualAlignmentCollator(processor, recipe.data.max_caption_tokens, recipe.data.captions_per_batch),
        train_dataset=ContextRows(
            train_pairs,
            train_pairs.pooled if model.config.map_image_targets and pooled else projected["train"],
            train_pairs.pooled if pooled else projected["train"],
            recipe.data.picture_context_fraction,
        ),
        eval_dataset=splits["validation"].texts,
        recalls=lambda _: measure("validation"),
        processing_class=processor,
        callbacks=[TrainingGuard(model)],
    )
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    trained = measure("test")
    output = Path(args.output_dir)
    model.save_pretrained(output)
    processor.save_pretrained(output)
    counts = {name: len(pairs.paths) for name, pairs in splits.items()}
    results = {"task": "unimur", "seed": args.seed, "pictures": counts, "test": trained, "test_untrained": untrained}
    (output / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return results


__all__ = ["embed_texts_as_contexts", "recalls", "train"]
