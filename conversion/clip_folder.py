"""Writes `CLIPModel` folders from other layouts: tokenizer, image processor, and a check of the features."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Callable, Sequence
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

from conversion.state_dicts import require_equal
from modeling_unimur.conversation import clean_texts
from modeling_unimur.data.cache import build_once
from modeling_unimur.loading import require_complete

logger = logging.getLogger(__name__)

# Texts on which the tokenizers are compared: contractions, digits, capitals, scripts, emoji, many tokens.
CHECK_TEXTS = (
    "a photo of a cat",
    "Don't  count: 1, 22 and 333!",
    "Ein Käfer läuft über 東京タワー 🎈",
    "one two three four five " * 20,
)
# Texts that OpenAI's and open_clip's tokenizers clean first, and transformers' does not.
CLEANED_TEXTS = (
    "it's the \u201cOld Town\u201d", "\u2018single\u2019 quotes", "cats &amp; dogs", "it&amp;#39;s &lt;b&gt;",
    "a&nbsp;b", "a \ufb01ne \ufb02ower", "\uff26\uff35\uff2c\uff2c\u3000\uff57ide", "caf\u00c3\u00a9 au lait",
    "\u039f\u0394\u039f\u03a3", "\ufeffmarked", "a\x07b", "\x1b[31mred\x1b[0m",
)  # fmt: skip
_CLEANED_NOTE = (
    "Its texts were cleaned before they were tokenized (quotes, ligatures, HTML entities, mojibake). transformers' "
    "tokenizer leaves that out: set `clean_text` of `UniVLDRProcessor` or `UniMuRProcessor` to `clip`."
)
OPENAI_VOCABULARY = 49408
_TOLERANCE = 1e-5  # of features, as a share of the largest value
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
        source: Hub id or folder. Without one it is OpenAI's, built from the vocabulary that open_clip carries and
            compared with open_clip's own.

    Raises:
        ValueError: the model has another vocabulary than OpenAI's and no source was given, the tokenizer knows ids
            beyond the model's vocabulary, or it differs from open_clip's.
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
    reference = import_open_clip().SimpleTokenizer(context_length=text.max_position_embeddings)
    renamed = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    tokenizer = CLIPTokenizer(
        vocab={renamed.get(token, token): number for token, number in reference.encoder.items()},
        merges=sorted(reference.bpe_ranks, key=reference.bpe_ranks.get),
        model_max_length=text.max_position_embeddings,
    )
    cleaned = clean_texts(list(CLEANED_TEXTS), "clip")
    wrong = [*_differing(tokenizer, reference, CHECK_TEXTS), *_differing(tokenizer, reference, CLEANED_TEXTS, cleaned)]
    if wrong:
        raise ValueError(f"The tokenizer differs from open_clip's on {wrong[0]!r}.")
    count, all_texts = len(_differing(tokenizer, reference, CLEANED_TEXTS)), len(CLEANED_TEXTS)
    logger.info("%d of %d texts for that purpose have other tokens uncleaned. %s", count, all_texts, _CLEANED_NOTE)
    return tokenizer


def _differing(
    tokenizer: PreTrainedTokenizerBase, reference, texts: Sequence[str], given: Sequence[str] | None = None
) -> list[str]:
    """Texts that have other tokens than open_clip's; the tokenizer reads `given` in their place."""
    rows = tokenizer(list(given or texts), truncation=True)["input_ids"]
    pairs = zip(texts, rows, reference(list(texts)), strict=True)
    return [text for text, row, right in pairs if row != right[: len(row)].tolist() or right[len(row) :].any()]


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


def plain_model(model_cfg: dict, tensors: dict[str, torch.Tensor]) -> torch.nn.Module:
    """The model of open_clip, which keeps OpenAI's names, with these weights in float32."""
    open_clip, settings = import_open_clip(), copy.deepcopy(model_cfg)
    custom = settings.pop("custom_text", False)
    model = (open_clip.CustomTextCLIP if custom else open_clip.CLIP)(**settings)
    model.load_state_dict({key: value.float() for key, value in tensors.items()})
    return model.eval()


def read_clip_model(folder: str | os.PathLike) -> CLIPModel:
    """Reads a `CLIPModel` in float32. Raises ValueError for another model, and for a file that lacks weights."""
    found = CLIPConfig.get_config_dict(folder)[0].get("model_type")
    if found != "clip":
        raise ValueError(f"{folder} has the model type {found}; this conversion reads transformers' CLIPModel.")
    model, info = CLIPModel.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    require_complete(info, str(folder))
    return model.eval()


def build_clip_model(config: CLIPConfig, tensors: dict[str, torch.Tensor]) -> CLIPModel:
    """A `CLIPModel` with these weights; none may be missing."""
    model = CLIPModel(config)
    model.load_state_dict(tensors)
    return model.eval()


def write_clip_folder(
    target: Path,
    config: CLIPConfig,
    tensors: dict[str, torch.Tensor],
    plain: Callable[[], torch.nn.Module],
    *,
    tokenizer: str | os.PathLike | None,
    preprocess: dict | None = None,
    licence: str,
    note: str,
) -> Path:
    """Writes a folder of `CLIPModel`, compares its features with the source's, and reads the weights back.

    Args:
        plain: makes the source, a model of open_clip.
        tokenizer, preprocess: as in `clip_tokenizer` and `image_processor`.
        licence, note: for the card.

    Raises:
        ValueError: the features differ, or a weight comes back with other values.
    """
    words, images = clip_tokenizer(config, tokenizer), image_processor(config, preprocess)
    note = note if tokenizer is not None else f"{note} {_CLEANED_NOTE}"

    def build(folder: Path) -> None:
        model = build_clip_model(config, tensors)
        verify_features(plain(), model)
        for part in (model, words, images):
            part.save_pretrained(folder)
        metadata = [
            f"license: {licence}",
            "library_name: transformers",
            "pipeline_tag: zero-shot-image-classification",
        ]
        card = "\n".join(["---", *metadata, "---", f"# {target.name}", "", note, ""])
        (folder / "README.md").write_text(card, encoding="utf-8")
        again = read_clip_model(folder).state_dict()
        different = [key for key, value in model.state_dict().items() if not torch.equal(again[key], value)]
        if different:
            raise ValueError(f"{folder}: {len(different)} tensors load with other values, such as {different[0]}.")

    return build_once(target, build)


@torch.no_grad()
def verify_features(plain: torch.nn.Module, model: CLIPModel) -> float:
    """Compares a model of open_clip with a `CLIPModel`, both in float32, on random images and random texts of several
    lengths, and returns the largest difference, as a share of the largest value.

    Raises:
        ValueError: the features differ by more than the tolerance, or the temperatures differ.
    """
    text, side = model.config.text_config, model.config.vision_config.image_size
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(2, 3, side, side, generator=generator)
    end = text.vocab_size - 1 if text.eos_token_id == 2 else text.eos_token_id
    # No other token above the end of the text, nor the end twice.
    words = torch.randint(1, text.vocab_size - 2, (3, text.max_position_embeddings), generator=generator)
    ids = words.where(words != end, words - 1)
    for row, length in enumerate((text.max_position_embeddings, 4, text.max_position_embeddings // 2)):
        ids[row, length - 1] = end
        ids[row, length:] = 0
    worst = max(
        require_equal(
            model.get_image_features(pixels).pooler_output, plain.encode_image(pixels), "Images", _TOLERANCE
        ),
        require_equal(model.get_text_features(ids).pooler_output, plain.encode_text(ids), "Texts", _TOLERANCE),
        require_equal(model.logit_scale, plain.logit_scale.reshape(()), "The temperature", 0.0),
    )
    logger.info("Features equal open_clip's within %.1e", worst)
    return worst
