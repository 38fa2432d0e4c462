"""Computes all frozen features of a recipe before training."""

import logging
from collections.abc import Callable

import torch
from transformers import AutoImageProcessor, AutoTokenizer

from .. import modeling_open_clip
from .alignment_data import contexts_read
from .frozen_features import FrozenTexts
from .frozen_towers import frozen_towers
from .pairs import PicturePairs, load_pairs
from .recipes import Recipe

logger = logging.getLogger(__name__)


def load_dual_encoder(source: str, revision: "str | None" = None, device: "str | None" = None):
    """A recipe's dual encoder exactly as training loads it, since its weights name the features.

    Args:
        source: Hub id or folder.
        revision: branch, tag or commit on the Hub.
        device: where it runs; an accelerator if there is one, by default.

    Returns:
        the model, its image processor and its tokenizer.

    Raises:
        OSError: it cannot be loaded; the message names it.
        ValueError: it lacks weights, or there is no such device.
    """
    clip, commit = modeling_open_clip.load_dual_encoder(source, revision, dtype="auto")
    if device is None:
        device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
    try:
        clip = clip.to(device).eval().requires_grad_(False)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"The towers cannot run on {device}: {str(error).splitlines()[0]}") from error
    hub = {"revision": commit} if commit else {}
    return clip, AutoImageProcessor.from_pretrained(source, **hub), AutoTokenizer.from_pretrained(source, **hub)


def cache_recipe(
    recipe: Recipe, device: "str | None" = None, tell: "Callable[[str], None] | None" = None
) -> "dict[str, PicturePairs]":
    """Computes the features of all images, captions and unpaired texts of a recipe that are not on disk yet.

    Args:
        recipe: of either task; its language model is not loaded.
        device: where the frozen towers run.
        tell: takes each line of the report.

    Returns:
        `dict`: the splits as `load_pairs` gives them.

    Raises:
        ValueError: task univl_dr or `data.images`, whose features are computed when the training begins.
    """
    if recipe.task == "clip" and recipe.data.images:
        raise ValueError("The features of data.images are computed when training begins: run `unimur train` alone.")
    if recipe.task == "univl_dr":
        raise ValueError("Task univl_dr computes its frozen features when it begins to train: `unimur train` alone.")
    clip, image_processor, tokenizer = load_dual_encoder(recipe.model.clip, recipe.model.clip_revision, device)
    data, tell = recipe.data, tell or logger.info
    cleaning = (getattr(recipe.model, "processor", None) or {}).get("clean_text")
    splits = load_pairs(
        clip, image_processor, tokenizer, data.sources, data.feature_options(), data.held_out_fraction, tell, cleaning
    )
    if recipe.task == "unimur" and data.texts:
        towers = frozen_towers(clip, tokenizer, cleaning)
        texts = FrozenTexts(towers.text_tower, towers.encode_texts)
        for source, contexts in contexts_read(data).items():
            lines = dict.fromkeys(context.target for context in contexts)
            if data.own_words_share:
                lines |= dict.fromkeys("\n".join(context.turns) for context in contexts)
            tell(texts.features(list(lines)).describe(f"{source}, texts"))
    return splits


__all__ = ["cache_recipe", "load_dual_encoder"]
