"""Encoders of texts by name: a dual encoder's text tower, or a model of sentence-transformers."""

from __future__ import annotations

import copy
import os

import torch
from torch.utils.data import get_worker_info
from transformers import AutoTokenizer, PreTrainedConfig

from ..configuration_univl_dr import DUAL_ENCODERS
from ..conversation import clean_texts
from ..modeling_open_clip import encode_texts, load_dual_encoder

# Texts that run through a text tower together.
_BATCH = 64


class TextEncoder:
    """Strings through a dual encoder's text tower, tokenised as `UniMuRProcessor.process_texts` does: padded to the
    longest, or for SigLIP to the full length and without a mask, and cut at the longest text that the tower reads.

    Args:
        clip: the dual encoder.
        tokenizer: its own.
        clean_text: as `UniMuRProcessor` takes it.
    """

    def __init__(self, clip, tokenizer, clean_text: str | None = None):
        self.clip, self.tokenizer, self.clean_text = clip, tokenizer, clean_text
        self.full = clip.config.model_type.startswith("siglip")
        about = clip.config if hasattr(clip.config, "context_length") else clip.config.text_config
        positions = getattr(about, "context_length", getattr(about, "max_position_embeddings", None))
        limits = [length for length in (tokenizer.model_max_length, positions) if length and length < 100_000]
        self.settings = {"padding": "max_length" if self.full else True, "truncation": bool(limits)}
        if limits:
            self.settings["max_length"] = min(limits)

    def __call__(self, lines: list[str], keep: str = "first") -> torch.Tensor:
        """Vectors `(texts, joint_width)`, not normalised; of a longer text the `"first"` or the `"latest"` tokens."""
        tokenizer = self.tokenizer
        if keep == "latest":
            tokenizer = copy.copy(tokenizer)  # of the settings; the words are shared
            tokenizer.truncation_side = "left"
        batch = tokenizer(clean_texts(lines, self.clean_text), return_tensors="pt", **self.settings)
        batch = batch.to(next(self.clip.parameters()).device)
        mask = None if self.full else batch["attention_mask"]
        return encode_texts(self.clip, batch["input_ids"], mask)

    def encode_query(self, texts: list[str]) -> torch.Tensor:
        """Vectors of texts as queries, of a longer one by its latest tokens."""
        with torch.inference_mode():
            parts = [self(texts[at : at + _BATCH], keep="latest") for at in range(0, len(texts), _BATCH)]
        return torch.cat(parts)

    @property
    def key(self) -> str:
        """What features depend on besides the weights."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        settings = f"{self.settings}" if self.clean_text is None else f"{self.settings}\n{self.clean_text}"
        if backend is None:
            return f"{type(self.tokenizer).__name__}\n{settings}"
        plain = copy.deepcopy(backend)  # a tokenizer notes its last padding and truncation in itself
        plain.no_truncation()
        plain.no_padding()
        return f"{plain.to_str()}\n{settings}"


def load_text_encoder(name: str, revision: str | None = None):
    """A [`TextEncoder`] of a CLIP, SigLIP or open_clip model, or else a `SentenceTransformer`.

    Args:
        name (`str`): Hub id or folder.
        revision (`str`, *optional*): branch, tag or commit on the Hub.

    Raises:
        OSError: the dual encoder could not be loaded.
        ValueError: there is no such model.
        ImportError: without the library that runs it.
    """
    try:
        is_listed = os.path.isfile(os.path.join(name, "modules.json"))
        about = {} if is_listed else PreTrainedConfig.get_config_dict(name, revision=revision)[0]
    except OSError:  # a sentence-transformers model may have no configuration of its own at the top
        about = {}
    if about.get("model_type") not in DUAL_ENCODERS:
        return load_sentence_transformer(name, revision)
    clip, commit = load_dual_encoder(name, revision)
    return TextEncoder(clip.eval(), AutoTokenizer.from_pretrained(name, revision=commit))


def load_anchor_encoder(name: str | None, revision: str | None = None):
    """`load_text_encoder` for a processor. Raises ImportError or ValueError, which say what to pass instead."""
    try:
        return load_text_encoder(name, revision)
    except (ImportError, OSError, ValueError) as error:
        kind = ImportError if isinstance(error, ImportError) else ValueError
        raise kind(
            f"The encoder of anchored queries cannot be loaded: {error} Or pass anchor_encoder, a SentenceTransformer "
            "or a callable from texts to vectors, to the pipeline or the processor."
        ) from error


def load_sentence_transformer(source: str | os.PathLike, revision: str | None = None):
    """A `SentenceTransformer` from a Hub id or a folder.

    Raises:
        ImportError: without sentence-transformers.
        ValueError: when there is no such model.
    """
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise ImportError(
            f"The encoder {os.fspath(source)!r} needs sentence-transformers: `pip install "
            "unimur[sentence_transformers]`."
        ) from error
    device = None if get_worker_info() is None else "cpu"  # an accelerator cannot be used after a fork
    try:
        return SentenceTransformer(os.fspath(source), revision=revision, device=device)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{os.fspath(source)!r} could not be loaded as a sentence-transformers model: check the id or the folder. "
            f"({str(error).splitlines()[0]})"
        ) from error


def encode_queries(encoder, texts: list[str]) -> torch.Tensor:
    """Vectors of texts as queries `(texts, width)`, float32 on the CPU; of a longer text its latest words.

    Args:
        encoder: encoder of `load_text_encoder`, or any callable from a list of texts to vectors.
        texts (`list[str]`): at least one.
    """
    if isinstance(encoder, TextEncoder):
        vectors = encoder.encode_query(texts)
    elif hasattr(encoder, "encode_query"):
        shown = _as_words([_latest_words(text, encoder) for text in texts], encoder)
        vectors = encoder.encode_query(shown, convert_to_tensor=True, show_progress_bar=False)
    else:
        vectors = encoder(texts)
    return torch.as_tensor(vectors).detach().float().cpu()


def encode_documents(encoder, items: list) -> torch.Tensor:
    """Vectors of texts or of images as candidates `(items, width)`, float32 on the CPU, not normalised.

    Args:
        encoder: as in `encode_queries`.
        items (`list[str]` or `list[PIL.Image.Image]`): at least one.

    Raises:
        ValueError: the items are images, and the encoder reads none.
    """
    if not isinstance(items[0], str):
        if not reads_images(encoder):
            raise ValueError(
                f"The encoder of these ready embeddings ({type(encoder).__name__}) reads no images: pass texts, or "
                "the images' own vectors to add_embeddings."
            )
    elif not hasattr(encoder, "encode_document"):
        with torch.inference_mode():
            return torch.as_tensor(encoder(items)).detach().float().cpu()
    else:
        items = _as_words(items, encoder)
    vectors = encoder.encode_document(items, convert_to_tensor=True, show_progress_bar=False)
    return torch.as_tensor(vectors).detach().float().cpu()


def reads_images(encoder) -> bool:
    """Whether an encoder of `load_text_encoder` embeds images as well as texts."""
    return hasattr(encoder, "encode_document") and "image" in getattr(encoder, "modalities", ())


def _as_words(texts: list[str], encoder) -> list:
    """Texts for an encoder that would take one that looks like the address of an image, a video or a sound for it."""
    return [{"text": text} for text in texts] if set(getattr(encoder, "modalities", ())) - {"text"} else texts


def _latest_words(text: str, encoder) -> str:
    """The end of a text that is longer than a sentence-transformers model reads."""
    limit, tokenizer = getattr(encoder, "max_seq_length", None), getattr(encoder, "tokenizer", None)
    if not limit or not getattr(tokenizer, "is_fast", False):
        return text
    prompt = (getattr(encoder, "prompts", None) or {}).get("query") or ""
    room = limit - len(tokenizer(prompt, verbose=False)["input_ids"])
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    offsets = encoded["offset_mapping"]
    return text[offsets[-room][0] :] if 0 < room < len(offsets) else text
