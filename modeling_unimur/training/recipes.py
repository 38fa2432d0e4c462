"""Typed YAML recipes: one file says everything about one training run."""

import logging
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import HfArgumentParser

from ..data.cache import cache_dir
from .arguments import RetrievalTrainingArguments
from .frozen_features import FeatureOptions
from .univl_dr_recipe import UniVLDRDataArguments, UniVLDRModelArguments

logger = logging.getLogger(__name__)


@dataclass
class ClipModelArguments:
    """The dual encoder that task clip trains."""

    clip: str = field(metadata={"help": "Hub id or folder of the dual encoder. $UNIMUR_CACHE is filled in."})
    clip_revision: str | None = field(default=None, metadata={"help": "Commit, tag or branch on the Hub."})
    image_head: dict | None = field(
        default=None,
        metadata={
            "help": "With data.images: arguments of a new PictureHead of an open_clip model, which then trains."
        },
    )


@dataclass
class UniMuRModelArguments:
    """The backbones and the heads on them."""

    clip: str = field(metadata={"help": "Hub id or folder of the dual encoder. $UNIMUR_CACHE is filled in."})
    language_model: str | None = field(default=None, metadata={"help": "Hub id or folder."})
    language_model_dtype: str = field(
        default="float32", metadata={"help": "Of the frozen language model; bfloat16 is 2.6 times faster with AMX."}
    )
    language_model_quantization: str | None = field(
        default=None, metadata={"help": "Of the frozen language model: int8, int4 (torchao) or nf4 (bitsandbytes)."}
    )
    clip_revision: str | None = field(default=None, metadata={"help": "Commit, tag or branch on the Hub."})
    language_model_revision: str | None = field(default=None, metadata={"help": "Commit, tag or branch on the Hub."})
    config: dict = field(default_factory=dict, metadata={"help": "Arguments of UniMuRConfig."})
    heads: str | None = field(
        default=None,
        metadata={
            "help": "File of trained heads to begin with; with training.max_steps: 0 only the anchored "
            "query is fitted."
        },
    )
    processor: dict = field(default_factory=dict, metadata={"help": "Arguments of UniMuRProcessor."})


@dataclass
class _ImageArguments:
    """Captioned images, and the frozen towers' features of them."""

    sources: list[str] = field(
        default_factory=lambda: ["openclipart", "openmoji", "stamps"],
        metadata={
            "help": "Captioned images: openclipart, openmoji, stamps, folder=PATH; or cc3m=PATH alone, with "
            "cc3m_validation=PATH and cc3m_test=PATH."
        },
    )
    held_out_fraction: float = field(
        default=0.005,
        metadata={
            "help": "Share of cc3m=PATH kept for validation, and for test, where they have no path; of `images` for "
            "validation."
        },
    )
    feature_dtype: str = field(
        default="float32",
        metadata={"help": "Of the frozen towers' outputs on disk; bfloat16 halves them, each value within 2^-8."},
    )
    tower_dtype: str | None = field(
        default=None, metadata={"help": "bfloat16 runs the frozen towers under autocast; as loaded by default."}
    )
    feature_batch_size: int = field(default=32, metadata={"help": "Images that pass the frozen tower together."})
    feature_workers: int | None = field(
        default=None, metadata={"help": "Processes that decode images; by the CPUs and the number of images."}
    )
    feature_shard_rows: int = field(
        default=4096, metadata={"help": "Rows a file; a killed run computes at most as many again."}
    )

    def __post_init__(self):
        _require_one_of(self, "feature_dtype", ("float32", "bfloat16"))
        _require_one_of(self, "tower_dtype", (None, "bfloat16"))
        for name in ("feature_batch_size", "feature_shard_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")

    def feature_options(self) -> FeatureOptions:
        """How `load_pairs` runs and keeps the frozen towers for this recipe."""
        return FeatureOptions(
            stored=getattr(torch, self.feature_dtype),
            tower=None if self.tower_dtype is None else getattr(torch, self.tower_dtype),
            workers=self.feature_workers,
            image_batch=self.feature_batch_size,
            text_batch=4 * self.feature_batch_size,
            shard_rows=self.feature_shard_rows,
        )


def _require_one_of(arguments: object, name: str, allowed: tuple) -> None:
    if getattr(arguments, name) not in allowed:
        raise ValueError(f"{name} must be one of {allowed}, got {getattr(arguments, name)!r}.")


@dataclass
class ClipDataArguments(_ImageArguments):
    """What task clip trains on."""

    images: str | None = field(
        default=None,
        metadata={
            "help": "Captioned images in place of `sources`; a folder with captions.tsv (file, tab, "
            "caption), the JSON file of Karpathy's splits, or a `datasets` id."
        },
    )
    image_views: int | None = field(
        default=None,
        metadata={
            "help": "Flips and crops computed of each image. One row per image, of all clip arts, with "
            "another view and text each epoch; by default one row a text, of the training split."
        },
    )
    view_dtype: str | None = field(
        default=None, metadata={"help": "bfloat16 runs the image tower under autocast on flips and crops alone."}
    )
    view_share: float = field(default=0.7, metadata={"help": "Share of rows that hold a view, not the image."})
    title_share: float = field(default=0.4, metadata={"help": "Share of rows with the title, not any text."})

    def __post_init__(self):
        super().__post_init__()
        _require_one_of(self, "view_dtype", (None, "bfloat16"))


@dataclass
class UniMuRDataArguments(_ImageArguments):
    """What task unimur trains on."""

    max_caption_tokens: int = field(default=24, metadata={"help": "Longest caption (FROMAGe: 24)."})
    image_context_fraction: float = field(
        default=0.25, metadata={"help": "Share of contexts that hold an image and words, not words alone."}
    )
    two_pairs_fraction: float = field(
        default=0.0, metadata={"help": "Share of contexts with another pair's caption before them, as in a dialogue."}
    )
    max_context_tokens: int | None = field(
        default=None, metadata={"help": "Longest context; as a caption by default."}
    )
    keep_context: str = field(
        default="latest", metadata={"help": "Which tokens of a longer context are kept: latest, or first (FROMAGe)."}
    )
    equal_captions_match: bool = field(
        default=True,
        metadata={"help": "Whether training pairs with equal captions are right for each other (FROMAGe: false)."},
    )
    concatenate_captions: float = field(
        default=0.0, metadata={"help": "Probability of two images with their captions in one row (FROMAGe: 0.5)."}
    )
    anchor_texts: dict[str, int] = field(
        default_factory=dict,
        metadata={
            "help": "Kinds of dialogue that the anchored query is fitted on (query_anchor), named as `texts`, and how "
            "many of each."
        },
    )
    max_anchor_tokens: int = field(
        default=400, metadata={"help": "Longest of these dialogues; the latest tokens are kept."}
    )
    texts: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Unpaired texts for textual matching: glosses, dialogues, questions, chats, long_dialogues, "
            "long_chats; chats=PATH, your own, JSON lines of chat messages; or package.module:function."
        },
    )
    text_fraction: float = field(default=0.5, metadata={"help": "Share of rows that come from `texts`, if there are."})
    texts_per_source: int | None = field(
        default=None, metadata={"help": "Contexts taken of each source of texts, evenly spaced; all by default."}
    )
    own_words_share: float = field(
        default=0.0,
        metadata={
            "help": "Share of its own words, read by the frozen text tower, in the target of an unpaired context; the "
            "rest is the right text's. So the readout learns both what is said and what is meant."
        },
    )
    keep_prefixes_gb: float = field(
        default=0.0, metadata={"help": "Memory for what the frozen language model made of contexts; 0 keeps nothing."}
    )
    keep_prefixes_on_disk: bool = field(
        default=False, metadata={"help": "Whether those lie in the cache folder for the next run too."}
    )
    closed_form_start: bool = field(
        default=False, metadata={"help": "Start the image map and the readout from ridge regressions over all rows."}
    )
    refit_readout: bool = field(
        default=False, metadata={"help": "Solve the readout once more at the end, where the dev split gains by it."}
    )
    refit_texts_per_source: int | None = field(
        default=None, metadata={"help": "As texts_per_source, of what the refit reads, once each; all by default."}
    )
    refit_texts: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Further texts that the refit alone reads: as in `texts`, or words (of the glosses) and turns (of "
            "the dialogues), which are their own right answers."
        },
    )
    hard_negatives: int = field(
        default=0,
        metadata={
            "help": "Hard negatives of each modality a context, mined by the model as it stands before the first step "
            "(UniVL-DR's balanced sampler, 1); 0 for none, as in UniMuR."
        },
    )
    captions_per_batch: int | None = field(
        default=None, metadata={"help": "Rows of the caption loss in a batch; all by default."}
    )

    def __post_init__(self):
        super().__post_init__()
        _require_one_of(self, "keep_context", ("latest", "first"))
        if self.refit_texts and not (self.refit_readout and self.texts):
            raise ValueError(
                "refit_texts are read beside `texts`, by refit_readout: true; give both, or leave it out."
            )
        if self.hard_negatives < 0:
            raise ValueError(f"hard_negatives must be a non-negative integer, got {self.hard_negatives}.")


@dataclass
class Recipe:
    """One training run."""

    task: str
    model: "ClipModelArguments | UniMuRModelArguments | UniVLDRModelArguments"
    data: "ClipDataArguments | UniMuRDataArguments | UniVLDRDataArguments"
    training: RetrievalTrainingArguments


# Fields of `data` under the names of earlier versions.
_RENAMED = {"picture_context_fraction": "image_context_fraction", "picture_views": "image_views"}
# The arguments of each task: `model`, `data`.
TASKS = {
    "clip": (ClipModelArguments, ClipDataArguments),
    "unimur": (UniMuRModelArguments, UniMuRDataArguments),
    "univl_dr": (UniVLDRModelArguments, UniVLDRDataArguments),
}


def _section(cls, values: dict | None, name: str, path: Path):
    try:
        return HfArgumentParser(cls).parse_dict(values or {})[0]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}, section `{name}`: {error}") from error


def _read_yaml(text: str) -> Any:
    """YAML in which `1e-3` is a number, as in YAML 1.2; PyYAML alone reads it as text."""
    try:
        import yaml
    except ImportError as error:
        raise ImportError("Recipes are YAML: `pip install unimur[train]`.") from error

    class Loader(yaml.SafeLoader):
        pass

    number = re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+0123456789"))
    try:
        return yaml.load(text, Loader=Loader)  # a SafeLoader
    except yaml.YAMLError as error:
        raise ValueError(f"not YAML: {error}") from error


def load_recipe(path: "str | os.PathLike", overrides: "list[str] | None" = None) -> Recipe:
    """Reads a recipe.

    Args:
        path: a YAML file with the keys `task`, `model`, `data` and `training`; the last holds any field of
            `transformers.TrainingArguments`.
        overrides: `section.field=value` strings that win over the file.

    Raises:
        FileNotFoundError: when the file is not there.
        ValueError: for a key that no section knows, or a value of the wrong type.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no recipe {path}.")
    try:
        raw = _read_yaml(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is {error}") from error
    unknown = set(raw or {}) - {"task", "model", "data", "training"} if isinstance(raw, dict) else {type(raw).__name__}
    if unknown or not raw:
        raise ValueError(f"{path}: a recipe has task, model, data and training, not {sorted(unknown)}.")
    if str(raw.get("task")) not in TASKS:
        raise ValueError(f"{path}: task must be one of {', '.join(TASKS)}, got {raw.get('task')!r}.")
    for override in overrides or []:
        key, equals, value = override.partition("=")
        section, _, name = key.partition(".")
        if not equals or section not in ("model", "data", "training") or not name:
            raise ValueError(f"{override!r}: write section.field=value, such as training.max_steps=100.")
        try:
            raw.setdefault(section, {})[name] = _read_yaml(value)
        except ValueError as error:
            raise ValueError(f"{override!r} is {error}") from error
    for old in _RENAMED.keys() & (raw.get("data") or {}).keys():
        logger.warning("%s: data.%s is called data.%s now.", path, old, _RENAMED[old])
        raw["data"][_RENAMED[old]] = raw["data"].pop(old)
    defaults = {"report_to": "none", "remove_unused_columns": False}
    if not torch.accelerator.is_available():  # else a recipe with bf16 could not even be read here
        defaults["use_cpu"] = True
    training = {**defaults, **(raw.get("training") or {})}
    for name, value in training.items():
        if name.endswith("_strategy") and value is False:  # YAML reads a bare `no` so
            training[name] = "no"
    model, data = TASKS[raw["task"]]
    recipe = Recipe(
        task=raw["task"],
        model=_section(model, raw.get("model"), "model", path),
        data=_section(data, raw.get("data"), "data", path),
        training=_section(RetrievalTrainingArguments, training, "training", path),
    )
    for name in ("clip", "language_model"):
        value = getattr(recipe.model, name, None)
        if value:
            setattr(recipe.model, name, value.replace("$UNIMUR_CACHE", str(cache_dir())))
    if recipe.task == "unimur" and not recipe.model.language_model:
        raise ValueError(f"{path}, section `model`: task unimur needs language_model.")
    return recipe


__all__ = [
    "ClipDataArguments",
    "ClipModelArguments",
    "Recipe",
    "UniMuRDataArguments",
    "UniMuRModelArguments",
    "load_recipe",
]
