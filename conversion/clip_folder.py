"""Writes `CLIPModel` folders from other layouts, with their tokenizers and image processors."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from transformers import (
    AutoTokenizer,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTokenizer,
    PreTrainedTokenizerBase,
)
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from modeling_unimur.data.cache import build_once
from modeling_unimur.loading import require_complete

_CLEANED_NOTE = (
    "Its texts were cleaned before they were tokenized (quotes, ligatures, HTML entities, mojibake). transformers' "
    "tokenizer leaves that out: set `clean_text` of `UniVLDRProcessor` or `UniMuRProcessor` to `clip`."
)
OPENAI_VOCABULARY = 49408
_RESAMPLE = {"bicubic": 3, "bilinear": 2}
_PREPROCESS = {
    "mean": list(OPENAI_CLIP_MEAN),
    "std": list(OPENAI_CLIP_STD),
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}


def import_open_clip():
    """Imports the package open_clip. Raises ImportError, which says how to install it."""
    try:
        import open_clip
    except ImportError as error:
        raise ImportError("Converting CLIP needs open_clip: pip install unimur[open_clip]") from error
    return open_clip


def clip_tokenizer(config: CLIPConfig, source: str | os.PathLike | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a CLIP.

    Args:
        config: of the model; it says how many tokens the text tower reads.
        source: Hub id or folder. Without one it is OpenAI's, built from the vocabulary that open_clip carries.

    Raises:
        ImportError: without a source and without open_clip.
        ValueError: the model has another vocabulary than OpenAI's and no source was given, or the tokenizer knows ids
            beyond the model's vocabulary.
    """
    text = config.text_config
    if source is not None:
        tokenizer = AutoTokenizer.from_pretrained(source)
        if len(tokenizer) > text.vocab_size:
            raise ValueError(f"{source} has {len(tokenizer)} tokens, and the model {text.vocab_size}.")
        tokenizer.model_max_length = text.max_position_embeddings
        return tokenizer
    if text.vocab_size != OPENAI_VOCABULARY:
        raise ValueError(
            f"The model has {text.vocab_size} tokens, OpenAI's tokenizer {OPENAI_VOCABULARY}: pass its own tokenizer."
        )
    reference = import_open_clip().SimpleTokenizer()
    renamed = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    return CLIPTokenizer(
        vocab={renamed.get(token, token): number for token, number in reference.encoder.items()},
        merges=sorted(reference.bpe_ranks, key=reference.bpe_ranks.get),
        model_max_length=text.max_position_embeddings,
    )


def image_processor(config: CLIPConfig, preprocess: dict | None = None) -> CLIPImageProcessor:
    """The image processor of a CLIP, made from open_clip's `preprocess_cfg`. What that leaves out has OpenAI's values.

    Raises:
        ValueError: it asks for what `CLIPImageProcessor` does not do.
    """
    asked = {**_PREPROCESS, **(preprocess or {})}
    side = config.vision_config.image_size
    if asked["interpolation"] not in _RESAMPLE or asked["resize_mode"] not in ("shortest", "squash"):
        raise ValueError(
            f"CLIPImageProcessor does not prepare images with interpolation={asked['interpolation']!r} and "
            f"resize_mode={asked['resize_mode']!r}."
        )
    square = {"height": side, "width": side}
    squash = asked["resize_mode"] == "squash"
    return CLIPImageProcessor(
        size=square if squash else {"shortest_edge": side},
        crop_size=square,
        do_center_crop=not squash,
        resample=_RESAMPLE[asked["interpolation"]],
        image_mean=list(asked["mean"]),
        image_std=list(asked["std"]),
    )


def preprocess_config(folder: str | os.PathLike) -> dict:
    """open_clip's `preprocess_cfg` of a `CLIPModel` folder; OpenAI's where the folder has no image processor."""
    if not any(Path(folder, name).is_file() for name in ("preprocessor_config.json", "processor_config.json")):
        return dict(_PREPROCESS)
    processor = CLIPImageProcessor.from_pretrained(folder)
    names = {number: name for name, number in _RESAMPLE.items()}
    return {
        "mean": list(processor.image_mean),
        "std": list(processor.image_std),
        "interpolation": names.get(int(processor.resample), "bicubic"),
        "resize_mode": "shortest" if processor.do_center_crop else "squash",
    }


def read_clip_model(folder: str | os.PathLike) -> CLIPModel:
    """Reads a `CLIPModel` in float32. Raises ValueError for another model, and for a file that lacks weights."""
    found = CLIPConfig.get_config_dict(folder)[0].get("model_type")
    if found != "clip":
        raise ValueError(f"{folder} has the model type {found}; this conversion reads transformers' CLIPModel.")
    model, info = CLIPModel.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    require_complete(info, str(folder))
    return model.eval()


def write_clip_folder(
    target: Path,
    config: CLIPConfig,
    tensors: dict[str, torch.Tensor],
    *,
    tokenizer: str | os.PathLike | None,
    preprocess: dict | None = None,
    licence: str,
    note: str,
) -> Path:
    """Writes a folder of `CLIPModel` with all of these weights.

    Args:
        tokenizer, preprocess: as in `clip_tokenizer` and `image_processor`.
        licence, note: for the card.
    """
    words, images = clip_tokenizer(config, tokenizer), image_processor(config, preprocess)
    note = note if tokenizer is not None else f"{note} {_CLEANED_NOTE}"

    def build(folder: Path) -> None:
        model = CLIPModel(config)
        model.load_state_dict(tensors)
        for part in (model, words, images):
            part.save_pretrained(folder)
        metadata = [
            f"license: {licence}",
            "library_name: transformers",
            "pipeline_tag: zero-shot-image-classification",
        ]
        card = "\n".join(["---", *metadata, "---", f"# {target.name}", "", note, ""])
        (folder / "README.md").write_text(card, encoding="utf-8")

    return build_once(target, build)
