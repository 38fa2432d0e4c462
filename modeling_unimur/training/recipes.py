"""Typed YAML recipes: one file says everything about one training run."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import HfArgumentParser

from ..data.cache import cache_dir
from .arguments import (
    ClipDataArguments,
    ClipModelArguments,
    RetrievalTrainingArguments,
    UniMuRDataArguments,
    UniMuRModelArguments,
    UniVLDRDataArguments,
    UniVLDRModelArguments,
)


@dataclass
class Recipe:
    """One training run."""

    task: str
    model: "ClipModelArguments | UniMuRModelArguments | UniVLDRModelArguments"
    data: "ClipDataArguments | UniMuRDataArguments | UniVLDRDataArguments"
    training: RetrievalTrainingArguments


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
    """Reads YAML in which `1e-3` is a number, as in YAML 1.2. PyYAML alone reads it as text."""

    class Loader(yaml.SafeLoader):
        pass

    number = re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+0123456789"))
    try:
        return yaml.load(text, Loader=Loader)  # a SafeLoader
    except yaml.YAMLError as error:
        raise ValueError(f"not YAML: {error}") from error


def load_recipe(path: "str | os.PathLike", overrides: "list[str] | None" = None) -> Recipe:
    """Read a recipe.

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
