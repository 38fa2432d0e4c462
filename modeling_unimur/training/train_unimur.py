"""Trains UniMuR's heads by dual alignment."""

import logging
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import TrainingArguments, set_seed

from .. import UniMuRModel, UniMuRProcessor
from ..data.atomic_files import write_json
from ..data.cache import cache_dir
from ..modeling_unimur import LORA
from .alignment_data import AlignmentData, load_data
from .callbacks import RescaleRet, TrainingGuard
from .collators import DualAlignmentCollator
from .dev_sets import DevSet, recalls
from .hard_negative_rows import mine_hard_negatives
from .prefix_store import PrefixStore
from .quantization import prepare_quantised, quantization_config
from .query_anchor_fit import fit_query_anchor, paper_query, read_queries
from .readout_fit import fit_readout, read_contexts, refit_readout, set_readout, start_image_map
from .recipes import Recipe
from .trainer import RetrievalTrainer, parameter_report

logger = logging.getLogger(__name__)


def build(recipe: Recipe) -> "tuple[UniMuRModel, UniMuRProcessor]":
    """Build the untrained model of a recipe, with frozen backbones, and its processor."""
    chosen = recipe.model
    revisions = {
        "language_model_revision": chosen.language_model_revision,
        "clip_revision": chosen.clip_revision,
    }
    processor = UniMuRProcessor.from_backbones(chosen.language_model, chosen.clip, **revisions, **chosen.processor)
    dtype = getattr(torch, chosen.language_model_dtype)
    packed = quantization_config(chosen.language_model_quantization, dtype)
    model = UniMuRModel.from_backbones(
        chosen.language_model,
        chosen.clip,
        processor=processor,
        dtype={"language_model": dtype},
        language_model_arguments={} if packed is None else {"quantization_config": packed},
        **revisions,
        **chosen.config,
    )
    if packed is not None:
        prepare_quantised(model.language_model)
    for part, source in (("text", chosen.language_model), ("clip", chosen.clip)):
        if source is not None and Path(source).is_dir():  # found again on this machine; a release refuses it
            setattr(model.config, f"{part}_base_model", str(Path(source).absolute()))
    model.config.heads_only = True  # checkpoints need not repeat what never changes
    if chosen.heads is not None:
        _take_heads(model, Path(chosen.heads))
    return model, processor


def _require_whole(recipe: Recipe) -> None:
    """Raises for a recipe whose anchored query could not be fitted, before anything is loaded."""
    kind = recipe.model.config.get("query_anchor", "none")
    if (kind != "none") != bool(recipe.data.anchor_texts):
        raise ValueError(
            f"model.config.query_anchor is {kind!r} and data.anchor_texts is {recipe.data.anchor_texts}: the anchored "
            "query is fitted on kinds of dialogue, such as {chats: 2500}. Set both or neither."
        )
    if recipe.model.processor.get("max_image_tokens") is not None:
        raise ValueError(
            "A recipe keeps one vector of each image, and max_image_tokens reads its patches: leave it out, or train "
            "with pixel_values (docs/backbones.md)."
        )
    if recipe.model.heads is not None and not Path(recipe.model.heads).is_file():
        raise FileNotFoundError(
            f"There is no file {recipe.model.heads}: set model.heads to the model.safetensors of trained heads."
        )


def _take_heads(model: UniMuRModel, source: Path) -> None:
    """Loads trained heads from a file, with or without the anchored query and adapters."""
    tensors = load_file(source)
    tensors = {key if LORA in key else f"heads.{key.removeprefix('heads.')}": value for key, value in tensors.items()}
    missing, unknown = model.load_state_dict(tensors, strict=False)
    missing = [n for n in missing if n.startswith("heads.") and not n.startswith("heads.query_anchor.")]
    if missing or unknown:
        raise ValueError(f"{source} does not hold the heads of this model: missing {missing}, unknown {unknown}.")


def prefix_store(model: UniMuRModel, recipe: Recipe) -> "PrefixStore | None":
    """Return the prefix store of a recipe, or None if it has none."""
    if not recipe.data.keep_prefixes_gb:
        return None
    folder = cache_dir() / "prefixes" if recipe.data.keep_prefixes_on_disk else None
    return PrefixStore(model, int(recipe.data.keep_prefixes_gb * 2**30), folder)


def train(recipe: Recipe) -> "dict[str, float]":
    """Run a recipe of task `unimur`.

    Writes to `training.output_dir`: the heads with their configuration and processor, and `results.json` with recalls
    of the trained and the untrained heads on the test split.
    """
    args: TrainingArguments = recipe.training
    _require_whole(recipe)
    set_seed(args.seed)
    model, processor = build(recipe)
    with args.main_process_first(local=False, desc="frozen features"):  # the others read what the first one wrote
        data = load_data(model, recipe.model, recipe.data, args.seed)
    logger.info("%s", parameter_report(model))
    limit = recipe.data.max_context_tokens or recipe.data.max_caption_tokens

    store = prefix_store(model, recipe)

    trains = args.max_steps != 0  # else the anchored query alone is fitted, which benchmarks/anchor.py measures

    collator = DualAlignmentCollator(
        processor,
        recipe.data.max_caption_tokens,
        limit,
        recipe.data.captions_per_batch,
        recipe.data.concatenate_captions,
        store,
        recipe.data.keep_context,
    )

    def measure(sets: "list[DevSet]") -> "dict[str, float]":
        return recalls(model, sets, collator)

    with paper_query(model):
        untrained = measure(data.test) if trains else {}
        if recipe.data.closed_form_start and not args.resume_from_checkpoint:
            start_image_map(model, data.train, collator, args.seed)
            set_readout(model, fit_readout(read_contexts(model, data.train, collator, with_images=True), args.seed))
        model.heads.readout_maps.requires_grad_(recipe.data.train_readout)
        rows = data.train
        if recipe.data.hard_negatives and trains:
            rows = mine_hard_negatives(model, rows, collator, recipe.data.hard_negatives, seed=args.seed)
        trainer = RetrievalTrainer(
            model=model,
            args=args,
            data_collator=collator,
            train_dataset=rows,
            eval_dataset=data.dev[0].contexts,
            recalls=lambda _: measure(data.dev),
            processing_class=processor,
            callbacks=[TrainingGuard(model), *([RescaleRet(model)] if args.rescale_ret else [])],
        )
        if trains:
            trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
        readout: dict = {}
        if recipe.data.refit_readout:
            model.eval()
            readout = {"refit": refit_readout(model, data.refit, collator, lambda: measure(data.dev), args.seed)}
        measured = measure(data.test) if trains else {}
    if model.heads.query_anchor is not None:
        model.eval()
        readout |= {"test_readout": measured, "query_anchor": _fit_anchor(model, processor, data, recipe)}
    if store is not None:
        store.flush()
    results = {
        "task": "unimur",
        "seed": args.seed,
        "images": data.images,
        "test": measured if model.heads.query_anchor is None or not trains else measure(data.test),
        "test_untrained": untrained,
        **readout,
    }
    output = Path(args.output_dir)
    if trainer.is_world_process_zero():
        model.save_pretrained(output)
        processor.save_pretrained(output)
        write_json(output / "results.json", results)
    return results


def _fit_anchor(model: UniMuRModel, processor: UniMuRProcessor, data: AlignmentData, recipe: Recipe) -> dict:
    """Fits the anchored query on the recipe's kinds of dialogue."""
    limit = recipe.data.max_anchor_tokens
    collator = DualAlignmentCollator(processor, recipe.data.max_caption_tokens, limit)
    folder = cache_dir() / "queries"
    train, dev = [], []
    for name, (rows, held_out) in data.anchor.items():
        if model.heads.query_anchor.correction is not None:  # weights and gate are chosen on held-out dialogues
            train += read_queries(model, name, rows, collator, folder)
        dev += read_queries(model, name, held_out, collator, folder)
    return fit_query_anchor(model.heads.query_anchor, train, dev, recipe.training.seed)
