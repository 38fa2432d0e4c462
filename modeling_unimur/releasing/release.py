"""Releases a model folder on the Hub: builds a clean folder, checks it, tries it, and uploads it."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import ModelCard
from transformers import PreTrainedConfig

from .. import UniMuRConfig, UniMuRModel, UniMuRProcessor, UniVLDRConfig, UniVLDRModel, UniVLDRProcessor
from ..configuration_univl_dr import DUAL_ENCODERS
from .bases import PARTS, Base
from .card import check_card, read_card, render_card, write_benchmark_results
from .clean_folder import read_heads, write_heads, write_model
from .fresh_load import embeddings
from .hub_cards import CARD_TO_FILL
from .refusals import check_bases, check_config, check_release, check_source
from .trial import try_release
from .upload import require_free_tag, upload

_CLASSES = {
    UniMuRConfig.model_type: (UniMuRConfig, UniMuRModel, UniMuRProcessor),
    UniVLDRConfig.model_type: (UniVLDRConfig, UniVLDRModel, UniVLDRProcessor),
}


@dataclass(frozen=True)
class Release:
    """The result of a release or a dry run.

    Args:
        files: names and sizes in bytes.
        left_out: files of the source that do not go up.
        trial: what a fresh process found.
        url: address of the commit; None after a dry run.
    """

    repo_id: str
    heads_only: bool
    files: dict[str, int]
    left_out: list[str]
    trial: dict
    url: str | None = None


def release(
    source: Path,
    repo_id: str,
    *,
    heads_only: bool | None = None,
    bases: dict[str, Base] | None = None,
    card: Path | None = None,
    backbones: dict[str, str] | None = None,
    private: bool = False,
    tag: str | None = None,
    dry_run: bool = False,
    keep: Path | None = None,
) -> Release:
    """Makes a clean folder out of a model's, refuses what must not go up, loads it in a fresh process, and uploads it.

    Args:
        source: folder with a model (UniMuR or UniVL-DR) and its processor; nothing in it is run or changed.
        repo_id: `owner/name` on the Hub.
        heads_only: whether to leave the backbones out; by default where the source names both.
        bases: `text` and `clip`, the frozen backbones by id and commit, where the configuration does not name them.
        card: YAML file of a card; by default the source's README.md, where that has the Hub's metadata.
        backbones: `language_model` and `clip`, where to load the backbones from for the trial.
        private: whether a new repository is private.
        tag: tag of the commit.
        dry_run: whether to stop before anything is sent.
        keep: folder to make with what goes up; by default it is removed again.

    Returns:
        What went up, or would.

    Raises:
        FileNotFoundError: the source lacks a part.
        ValueError: the source is no such model, or holds what no release may hold, with the remedy.
        FileExistsError: `keep` is there.
        OSError: the Hub refuses, or a backbone cannot be had.
    """
    if keep is not None and keep.exists():
        raise FileExistsError(f"{keep} is there: give a folder that is to be made.")
    if tag and not dry_run:
        require_free_tag(repo_id, tag)
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work) / repo_id.rsplit("/", 1)[-1]
        expected = build_release(
            source, folder, heads_only=heads_only, bases=bases, card=card, repo_id=repo_id, backbones=backbones
        )
        files = check_release(folder)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        found = try_release(folder, expected, backbones if config.get("heads_only") else None)
        left_out = sorted(
            path.relative_to(source).as_posix()
            for path in source.rglob("*")
            if path.is_file() and path.relative_to(source).as_posix() not in files
        )
        if keep is not None:
            shutil.copytree(folder, keep)
        url = None if dry_run else upload(folder, repo_id, private=private, tag=tag)
        return Release(repo_id, config.get("heads_only", False), files, left_out, found, url)


def build_release(
    source: Path,
    target: Path,
    *,
    heads_only: bool | None = None,
    bases: dict[str, Base] | None = None,
    card: Path | None = None,
    repo_id: str = "<this folder>",
    backbones: dict[str, str] | None = None,
) -> dict[str, torch.Tensor] | None:
    """Makes the folder `target` of a release: weights, processor, flat code, pipeline, what sentence-transformers
    reads, card. The other arguments and the errors are those of `release`.

    Returns:
        What the source computes, for `try_release`; None where only the heads were read.
    """
    config = _source_config(source, bases or {})
    check_source(source)
    is_unimur = config.model_type == UniMuRConfig.model_type
    if is_unimur:
        named = config.text_base_model and (config.clip_config is None or config.clip_base_model)
        heads_only = bool(named or config.heads_only) if heads_only is None else heads_only
    elif heads_only or bases:
        raise ValueError("UniVL-DR trains its whole encoder, so it has no heads to release alone: release it whole.")
    if heads_only:
        check_bases(config.to_dict())
    elif not getattr(config, "heads_only", False):
        check_config(json.loads((source / "config.json").read_text(encoding="utf-8")), "config.json")
    make_card = _card_of(source, card)
    _, model_class, processor_class = _CLASSES[config.model_type]
    processor = processor_class.from_pretrained(source)
    target.mkdir(parents=True)
    if heads_only:
        heads = read_heads(source)
        config.heads_only = True
        write_heads(target, config, heads, processor)
        trained, expected = sum(tensor.numel() for tensor in heads.values()), None
    else:
        given: dict = dict(backbones or {}) if getattr(config, "heads_only", False) else {}
        given |= {"config": config} if is_unimur else {}
        model = model_class.from_pretrained(source, **given).eval()
        if is_unimur:
            for part in PARTS:  # backbones that are folders of this machine: the release holds them
                if getattr(model.config, f"{part}_base_revision") is None:
                    setattr(model.config, f"{part}_base_model", None)
        write_model(target, model, processor, **({"heads_only": False} if is_unimur else {}))
        trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        expected = embeddings(model, processor)
        config = config_of(target)
    (target / "README.md").write_text(make_card(config, trained, repo_id), encoding="utf-8")
    if card is not None:
        write_benchmark_results(read_card(card), target)
    return expected


def config_of(folder: Path) -> PreTrainedConfig:
    """The configuration of a model's folder, by this package's class for it; a dual encoder is an untrained UniVL-DR.
    Raises ValueError for a model of another kind."""
    raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if raw.get("model_type") in DUAL_ENCODERS:
        return UniVLDRConfig(clip_config=raw)
    if raw.get("model_type") not in _CLASSES:
        raise ValueError(f"{folder} holds a {raw.get('model_type')} model; this releases {' and '.join(_CLASSES)}.")
    return _CLASSES[raw["model_type"]][0].from_pretrained(folder)


def _source_config(source: Path, bases: dict[str, Base]) -> PreTrainedConfig:
    """The configuration of a model's folder, with the names of its backbones."""
    path = source / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{source} is no model's folder: it has no config.json.")
    weights = [found.name for found in source.iterdir() if found.suffix in (".bin", ".pt", ".pth", ".ckpt")]
    if weights and not list(source.glob("*.safetensors")):
        raise ValueError(
            f"{source} holds pickles only ({weights[0]}), which run code when they are opened: convert them first "
            "(conversion/ has a converter for each format that is known), or save the model with `save_pretrained`."
        )
    config = config_of(source)
    for part, base in bases.items():
        setattr(config, f"{part}_base_model", base.model)
        setattr(config, f"{part}_base_revision", base.revision)
    return config


def _card_of(source: Path, card: Path | None) -> Callable[[PreTrainedConfig, int, str], str]:
    """Writes the card once the configuration is known; what can be wrong with it is found now."""
    if card is not None:
        fields = read_card(card)
        return lambda config, trained, repo_id: render_card(fields, config, trained, repo_id)
    own = source / "README.md"
    text = own.read_text(encoding="utf-8") if own.is_file() else ""
    if not text or not ModelCard(text, ignore_metadata_errors=True).data.get("license"):
        raise ValueError(
            f"{source} has no card that states a licence: fill a copy of {CARD_TO_FILL} and pass it with --card."
        )
    check_card(text)
    return lambda config, trained, repo_id: text.replace("<this folder>", repo_id)
