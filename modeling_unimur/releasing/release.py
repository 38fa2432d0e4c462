"""A model folder as a release on the Hub: built clean, checked, tried, and uploaded."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import ModelCard

from .. import UniMuRConfig, UniMuRModel, UniMuRProcessor
from .bases import Base
from .card import check_card, read_card, render_card
from .clean_folder import read_heads, write_heads, write_model
from .fresh_load import embeddings
from .refusals import check_bases, check_config, check_release
from .trial import try_release
from .upload import require_free_tag, upload


@dataclass(frozen=True)
class Release:
    """What was released, or would be.

    Args:
        repo_id: where.
        heads_only: whether the backbones are left out.
        files: names and sizes in bytes.
        left_out: files of the source that do not go up.
        trial: what a fresh process found.
        url: of the commit; None after a dry run.
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
        source: folder with a UniMuR model and its processor; nothing in it is run or changed.
        repo_id: `owner/name` on the Hub.
        heads_only: whether to leave the backbones out; by default where the source names both.
        bases: `text` and `clip`, the frozen backbones by id and commit, where the configuration does not name them.
        card: YAML file of a card; by default the source's README.md, where that has the Hub's metadata.
        backbones: `language_model` and `clip`, where to load the backbones from for the trial.
        private: whether a new repository is private.
        tag: of the commit.
        dry_run: whether to stop before anything is sent.
        keep: folder to make with what goes up; by default it is removed again.

    Returns:
        What went up, or would.

    Raises:
        FileNotFoundError: the source lacks a part.
        ValueError: the source is no UniMuR model, or holds what no release may hold, with the remedy.
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
        found = try_release(folder, expected, backbones)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        left_out = sorted(
            path.relative_to(source).as_posix()
            for path in source.rglob("*")
            if path.is_file() and path.relative_to(source).as_posix() not in files
        )
        made = Release(repo_id, config["heads_only"], files, left_out, found)
        if keep is not None:
            shutil.copytree(folder, keep)
        if dry_run:
            return made
        url = upload(folder, repo_id, private=private, tag=tag)
        return Release(repo_id, made.heads_only, files, left_out, found, url)


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
    """Makes the folder of a release: weights, processor, flat code, pipeline, what sentence-transformers reads, card.

    Args:
        source, heads_only, bases, card, repo_id, backbones: as for `release`.
        target: folder to make.

    Returns:
        What the source computes, for `try_release`; None where only the heads were read.

    Raises:
        FileNotFoundError, ValueError, OSError: as `release` says.
    """
    config = _source_config(source, bases or {})
    named = config.text_base_model and (config.clip_config is None or config.clip_base_model)
    heads_only = bool(named or config.heads_only) if heads_only is None else heads_only
    if heads_only:
        check_bases(config.to_dict())
    make_card = _card_of(source, card)
    processor = UniMuRProcessor.from_pretrained(source)
    target.mkdir(parents=True)
    expected = None
    if heads_only:
        heads = read_heads(source)
        config.heads_only = True
        write_heads(target, config, heads, processor)
        trained = sum(tensor.numel() for tensor in heads.values())
    else:
        for part in ("text_config", "clip_config"):
            check_config({part: getattr(config, part) and getattr(config, part).to_dict()}, "config.json")
        model = UniMuRModel.from_pretrained(source, **(backbones or {})).eval()
        write_model(target, model, processor, heads_only=False)
        trained = sum(parameter.numel() for parameter in model.heads.parameters())
        expected = embeddings(model, processor)
        config = model.config
        config.heads_only = False
    (target / "README.md").write_text(make_card(config, trained, repo_id), encoding="utf-8")
    return expected


def _source_config(source: Path, bases: dict[str, Base]) -> UniMuRConfig:
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
    raw = json.loads(path.read_text(encoding="utf-8"))
    if raw.get("model_type") != UniMuRConfig.model_type:
        raise ValueError(f"{source} holds a {raw.get('model_type')} model; this releases UniMuR models.")
    for part, base in bases.items():
        raw[f"{part}_base_model"], raw[f"{part}_base_revision"] = base.model, base.revision
    for part in ("text", "clip"):
        if raw.get(f"{part}_base_model") is not None:
            Base(raw[f"{part}_base_model"], raw.get(f"{part}_base_revision"))
    config = UniMuRConfig.from_pretrained(source)
    for part, base in bases.items():
        setattr(config, f"{part}_base_model", base.model)
        setattr(config, f"{part}_base_revision", base.revision)
    return config


def _card_of(source: Path, card: Path | None) -> Callable[[UniMuRConfig, int, str], str]:
    """Writes the card once the configuration is known; what can be wrong with it is found now."""
    if card is not None:
        fields = read_card(card)
        return lambda config, trained, repo_id: render_card(fields, config, trained, repo_id)
    own = source / "README.md"
    text = own.read_text(encoding="utf-8") if own.is_file() else ""
    if not text or not ModelCard(text, ignore_metadata_errors=True).data.get("license"):
        raise ValueError(
            f"{source} has no card that states a licence: fill a copy of hub_cards/template/card.yaml and pass it "
            "with --card."
        )
    check_card(text)
    return lambda config, trained, repo_id: text.replace("<this folder>", repo_id)


__all__ = ["Release", "build_release", "release"]
