"""Dual alignment training of UniMuR's heads."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.data import Dataset
from transformers import AutoImageProcessor, AutoModelForCausalLM, AutoTokenizer, TrainingArguments, set_seed

from ..data.captioned_pictures import load_captioned_pictures
from ..modeling_unimur import UniMuRModel
from ..processing_unimur import UniMuRProcessor
from .collators import DualAlignmentCollator
from .context_rows import MixedRows, PictureRows, TextRows
from .dev_sets import DevSet, picture_sets, recalls, text_sets
from .frozen_features import text_features
from .guards import TrainingGuard
from .pairs import PicturePairs, frozen_towers, load_pairs, project
from .prefix_store import PrefixStore
from .quantization import prepare_quantised, quantization_config
from .recipes import DataArguments, Recipe
from .trainer import RetrievalTrainer, parameter_report
from .unpaired_texts import TextContext, load_texts, text_rows

logger = logging.getLogger(__name__)

# Contexts of a text source that a run is judged by, and what their sets are called: text, picture.
_DEV_CONTEXTS = 500
_DEV_NAMES = {"glosses": ("gloss_title", None), "dialogues": ("dialogue_text", "dialogue_image")}


def build(recipe: Recipe) -> "tuple[UniMuRModel, UniMuRProcessor]":
    """The untrained model of a recipe, with frozen backbones, and its processor."""
    chosen = recipe.model
    revisions = {
        "language_model_revision": chosen.language_model_revision,
        "clip_revision": chosen.clip_revision,
    }
    processor = UniMuRProcessor.from_backbones(chosen.language_model, chosen.clip, **revisions, **chosen.processor)
    dtype = getattr(torch, chosen.language_model_dtype)
    packed = quantization_config(chosen.language_model_quantization, dtype)
    frozen = AutoModelForCausalLM.from_pretrained(
        chosen.language_model,
        revision=chosen.language_model_revision,
        dtype=dtype,
        quantization_config=packed,
    )
    if packed is not None:
        prepare_quantised(frozen)
    model = UniMuRModel.from_backbones(
        frozen, chosen.clip, processor=processor, clip_revision=chosen.clip_revision, **chosen.config
    )
    model.config.heads_only = True  # checkpoints need not repeat what never changes
    return model, processor


@dataclass
class AlignmentData:
    """What a run reads.

    Args:
        train: rows for `DualAlignmentCollator`.
        dev, test: what the run is judged by.
        pictures: how many each split has.
    """

    train: Dataset
    dev: "list[DevSet]"
    test: "list[DevSet]"
    pictures: "dict[str, int]"


class _Pictures:
    """What the frozen image tower makes of a split's pictures, by their numbers."""

    def __init__(self, model: UniMuRModel, pairs: PicturePairs):
        self.model, self.pairs = model, pairs
        pooled = model.config.visual_feature == "pooled"
        self.visual = self.pooled if pooled else self.projected
        self.target = self.pooled if pooled and model.config.map_image_targets else self.projected

    def pooled(self, numbers: torch.Tensor) -> torch.Tensor:
        return self.pairs.pooled[numbers]

    @torch.no_grad()
    def projected(self, numbers: torch.Tensor) -> torch.Tensor:
        clip = self.model.clip
        device = next(clip.parameters()).device
        return project(clip, self.pairs.pooled[numbers].float().to(device)).cpu()

    def everything(self) -> torch.Tensor:
        """The targets of all pictures `(pictures, width)`."""
        return self.target(torch.arange(len(self.pairs.paths)))


def _spaced(items: list, count: "int | None") -> list:
    """At most `count` of them, evenly spaced."""
    if count is None or count >= len(items):
        return items
    return [items[number * len(items) // count] for number in range(count)]


def load_data(model: UniMuRModel, clip: str, data: DataArguments, seed: int = 0) -> AlignmentData:
    """Reads pictures and texts with the frozen towers' features, cached on disk."""
    tokenizer = AutoTokenizer.from_pretrained(clip)
    splits = load_pairs(model.clip, AutoImageProcessor.from_pretrained(clip), tokenizer, data.sources)
    pictures = {name: _Pictures(model, pairs) for name, pairs in splits.items()}
    sets = {name: picture_sets(splits[name], pictures[name].everything()) for name in ("validation", "test")}
    rows: Dataset = PictureRows(
        splits["train"],
        pictures["train"].target,
        pictures["train"].visual,
        data.two_pairs_fraction,
        data.picture_context_fraction,
        seed,
    )
    if data.texts:
        _, _, tower, encode = frozen_towers(model.clip, tokenizer)
        image_ids = {row["image"]: row["image_id"] for row in load_captioned_pictures(data.sources)}

        def contexts(split: str, chosen: "list[TextContext]") -> TextRows:
            return text_rows(
                chosen,
                lambda lines: text_features(tower, encode, lines),
                splits[split],
                image_ids,
                pictures[split].target,
            )

        texts = load_texts(data.texts)
        everything = [c for source in texts.values() for c in _spaced(source["train"], data.texts_per_source)]
        rows = MixedRows([rows, contexts("train", everything)], [1 - data.text_fraction, data.text_fraction], seed)
        for split, found in sets.items():
            for source, parts in texts.items():
                names = _DEV_NAMES[source]
                found.extend(text_sets(contexts(split, _spaced(parts[split], _DEV_CONTEXTS)), *names, found[0]))
    return AlignmentData(rows, sets["validation"], sets["test"], {name: len(p.paths) for name, p in splits.items()})


def train(recipe: Recipe) -> "dict[str, float]":
    """Runs a recipe of task `unimur`.

    Writes to `training.output_dir`: the heads with their configuration and processor, and `results.json` with recalls
    of the trained and the untrained heads on the test split.
    """
    args: TrainingArguments = recipe.training
    set_seed(args.seed)
    model, processor = build(recipe)
    with args.main_process_first(local=False, desc="frozen features"):  # the others read what the first one wrote
        data = load_data(model, recipe.model.clip, recipe.data, args.seed)
    logger.info("%s", parameter_report(model))
    limit = recipe.data.max_context_tokens or recipe.data.max_caption_tokens

    def measure(sets: "list[DevSet]") -> "dict[str, float]":
        return recalls(model, processor, sets, limit)

    untrained = measure(data.test)
    trainer = RetrievalTrainer(
        model=model,
        args=args,
        data_collator=DualAlignmentCollator(
            processor,
            recipe.data.max_caption_tokens,
            limit,
            recipe.data.captions_per_batch,
            recipe.data.concatenate_captions,
            PrefixStore(model, int(recipe.data.keep_prefixes_gb * 2**30)) if recipe.data.keep_prefixes_gb else None,
        ),
        train_dataset=data.train,
        eval_dataset=data.dev[0].contexts,
        recalls=lambda _: measure(data.dev),
        processing_class=processor,
        callbacks=[TrainingGuard(model)],
    )
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    results = {
        "task": "unimur",
        "seed": args.seed,
        "pictures": data.pictures,
        "test": measure(data.test),
        "test_untrained": untrained,
    }
    output = Path(args.output_dir)
    if trainer.is_world_process_zero():
        model.save_pretrained(output)
        processor.save_pretrained(output)
        (output / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return results


__all__ = ["AlignmentData", "build", "load_data", "train"]
