"""Model cards, filled from a YAML file and the configuration, and checked offline."""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from huggingface_hub import EvalResult, EvalResultEntry, ModelCard, ModelCardData, eval_result_entries_to_yaml
from transformers import PreTrainedConfig

from .hub_cards import CARD_TO_FILL
from .refusals import json_values

TEMPLATE = Path(__file__).with_name("model_card.md.jinja")
# What the template of a card's YAML file has where a person has to write.
UNFILLED = "FILL IN"
_COMMON_TAGS = ("image-text-retrieval", "multimodal-retrieval", "sentence-transformers")
_TAGS = {"unimur": ("unimur", "dialogue", *_COMMON_TAGS), "univl_dr": ("univl-dr", *_COMMON_TAGS)}
_RESULT = ("task", "dataset", "metric", "value")


@dataclass(frozen=True)
class Card:
    """The author's description of a model; `hub_cards/template/card.yaml` explains each field.

    Args:
        title: title of the page.
        licence: licence of the trained heads, an identifier of the Hub such as `apache-2.0`.
        language: language of the texts, two letters, or several of them.
        summary, intended_use, out_of_scope, training, results_notes, citation: texts.
        training_data: rows of `name`, `licence` and `notes`.
        results: rows of `task`, `dataset`, `metric` and `value`, what was measured on a test split; optionally
            `dataset_id` and `task_id` of a benchmark on the Hub, and `notes` on the setting.
        limits, notes: lists of sentences.
        tags: further tags.
    """

    title: str
    licence: str
    language: str | list[str] = "en"
    summary: str = ""
    intended_use: str = ""
    out_of_scope: str = ""
    training: str = ""
    training_data: list[dict] = field(default_factory=list)
    results: list[dict] = field(default_factory=list)
    results_notes: str = ""
    limits: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    citation: str = ""
    tags: list[str] = field(default_factory=list)

    def __post_init__(self):
        for row in self.training_data:
            if not isinstance(row, dict) or not row.get("name") or not row.get("licence"):
                raise ValueError(f"Training data has a name and a licence, not {row!r}.")
        for row in self.results:
            if not isinstance(row, dict) or any(row.get(key) in (None, "") for key in _RESULT):
                raise ValueError(f"A result has {', '.join(_RESULT)}, not {row!r}.")
            _require_number(row["metric"], row["value"])
            if bool(row.get("dataset_id")) != bool(row.get("task_id")):
                raise ValueError(f"A result on a benchmark of the Hub has dataset_id and task_id, not {row!r}.")


def read_card(path: Path) -> Card:
    """A card's fields from a YAML file.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is no YAML, has a field that no card has, lacks one, or still has one to fill in.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no card {path}: fill a copy of {CARD_TO_FILL}.")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML ({' '.join(str(error).split())}).") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} contains no fields of a card: fill a copy of {CARD_TO_FILL}.")
    content = {key: value for key, value in content.items() if value is not None}
    fields = {item.name for item in dataclasses.fields(Card)}
    unknown = sorted(set(content) - fields)
    if unknown:
        raise ValueError(f"{path}: a card has no {', '.join(unknown)}; it has {', '.join(sorted(fields))}.")
    for where, text in json_values(content):
        if isinstance(text, str) and UNFILLED in text:
            raise ValueError(f"{path}: {where} is still to fill in ({text!r:.80}).")
    for required in ("title", "licence", "training_data", "limits"):
        if not content.get(required):
            raise ValueError(f"{path} lacks {required}, which every card says.")
    return Card(**content)


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def metadata(card: Card, config: PreTrainedConfig) -> ModelCardData:
    """The block at the top of a card, with the results as the Hub's `model-index`."""
    bases = [getattr(config, f"{part}_base_model", None) for part in ("text", "clip", "anchor")]
    named = [base for base in bases if base]
    results = [
        EvalResult(
            task_type="retrieval",
            task_name=row["task"],
            dataset_type=_slug(row["dataset"]),
            dataset_name=row["dataset"],
            metric_type=_slug(row["metric"]),
            metric_name=row["metric"],
            metric_value=row["value"],
        )
        for row in card.results
    ]
    optional = {"base_model": named, "base_model_relation": "adapter"} if named and config.heads_only else {}
    if results:
        optional.update(model_name=card.title, eval_results=results)
    return ModelCardData(
        license=card.licence,
        language=card.language,
        library_name="transformers",
        pipeline_tag="feature-extraction",
        tags=[*_TAGS[config.model_type], *card.tags],
        **optional,
    )


def write_benchmark_results(card: Card, folder: Path) -> list[Path]:
    """Writes results that name a `dataset_id` to `.eval_results/`, where the leaderboards of the Hub's benchmarks read
    them; the others are in the card's `model-index` alone."""
    named: dict[str, list[EvalResultEntry]] = {}
    for row in card.results:
        if row.get("dataset_id"):
            entry = EvalResultEntry(row["dataset_id"], row["task_id"], row["value"], notes=row.get("notes"))
            named.setdefault(row["dataset_id"], []).append(entry)
    paths = [folder / ".eval_results" / f"{_slug(name)}.yaml" for name in named]
    for path, entries in zip(paths, named.values(), strict=True):
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False), encoding="utf-8")
    return paths


def _described(config: PreTrainedConfig, part: str) -> str:
    sub = getattr(config, f"{part}_config")
    if sub is None:
        encoder = getattr(config, "anchor_base_model", None)
        made = f" of [{encoder}](https://huggingface.co/{encoder})" if encoder else ""
        return f"none: candidates are ready embeddings{made}"
    base, revision = (getattr(config, f"{part}_base_{key}", None) for key in ("model", "revision"))
    where = f"[{base}](https://huggingface.co/{base}) at `{revision}`" if base else "in this folder"
    if base is None and getattr(config, "heads_only", False):
        where = "passed when it is loaded"
    return f"{sub.model_type}, {where}"


def _parts(config: PreTrainedConfig, trained: int) -> list[tuple[str, str, str]]:
    """Rows of the table of parts: name, description, whether it was trained."""
    dual = ("dual encoder", _described(config, "clip"))
    if config.model_type == "univl_dr":
        return [(*dual, f"yes, {trained:,} parameters")]
    heads = "image -> language model, language model -> embedding, [RET], temperature"
    heads += ", anchor of the query" if config.query_anchor != "none" else ""
    language_model = ("language model", _described(config, "text"), "no")
    return [language_model, (*dual, "no"), ("heads", heads, f"yes, {trained:,} parameters")]


def _escaped(card: Card) -> Card:
    """The card with its texts as Markdown shows them: no HTML but links, and no row of a table or of a list that ends
    early."""

    def escape(value, in_row: bool):
        if isinstance(value, dict):
            return {key: escape(inner, True) for key, inner in value.items()}
        if isinstance(value, list):
            return [escape(inner, True) for inner in value]
        if not isinstance(value, str):
            return value
        text = re.sub(r"<(?!https?://)", "&lt;", value)
        return " ".join(text.split()).replace("|", r"\|") if in_row else text

    fields = {item.name: escape(getattr(card, item.name), item.name == "title") for item in dataclasses.fields(card)}
    citation = card.citation and card.citation.replace("```", "'''")  # shown as it is, in a block of code
    return dataclasses.replace(card, **{**fields, "citation": citation})


def render_card(card: Card, config: PreTrainedConfig, trained: int, repo_id: str = "<this folder>") -> str:
    """A card as Markdown with the Hub's metadata, of a release with this configuration and number of trained
    parameters."""
    heads_only = getattr(config, "heads_only", False)
    needs = "torch, transformers 5.10.1 or newer and pillow"
    if config.clip_config is not None and config.clip_config.model_type == "open_clip":
        needs += ", and `open_clip_torch`"
    if getattr(config, "anchor_base_model", None) is not None:
        needs += ", and `sentence-transformers`"
    parts = {"text": "language_model", "clip": "clip"} if heads_only else {}
    own = [part for part in parts if getattr(config, f"{part}_config") is not None]
    missing = [parts[part] for part in own if getattr(config, f"{part}_base_model") is None]
    given = "".join(f', {name}="<folder>"' for name in missing)
    given_st = ", model_kwargs={" + ", ".join(f'"{name}": "<folder>"' for name in missing) + "}" if missing else ""
    text = str(
        ModelCard.from_template(
            metadata(card, config),
            template_path=str(TEMPLATE),
            card=_escaped(card),
            heads_only=heads_only,
            is_dialogue=config.model_type == "unimur",
            needs=needs,
            repo_id=repo_id,
            given=given,
            given_st=given_st,
            parts=_parts(config, trained),
        )
    )
    text = re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n"
    check_card(text)
    return text


def check_card(text: str) -> None:
    """Checks offline that a card, Markdown with its metadata, is valid for the Hub and complete; raises ValueError
    otherwise."""
    try:
        data = ModelCard(text, ignore_metadata_errors=False).data
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"The card's metadata cannot be read ({' '.join(str(error).split())}).") from error
    for key in ("license", "library_name", "pipeline_tag"):
        if not data.get(key):
            raise ValueError(f"The card's metadata lacks {key}: the block between two lines of --- at its top has it.")
    for result in data.eval_results or []:
        _require_number(result.metric_name or result.metric_type, result.metric_value)
    if UNFILLED in text:
        raise ValueError(f"The card still has something to fill in ({UNFILLED}).")


def _require_number(metric: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"The value of a result is a finite number; that of {metric} is {value!r}.")
