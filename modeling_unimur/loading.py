"""Loading that never leaves a weight at random and never takes a damaged file for a good one, of models and of
processors; and how a frozen backbone is loaded."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from safetensors import SafetensorError
from tokenizers import Tokenizer
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedConfig

# Arguments that say where files come from, as opposed to what is built from them.
HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token")
# Parts of a configuration (`text_config`), the model's attributes for them, and what messages call them.
BACKBONES = {"text": "language_model", "clip": "clip"}
BACKBONE_NAMES = {"text": "language model", "clip": "dual encoder"}
# Larger ones are not read whole: a training that has failed leaves NaN in the small ones as well.
_CHECKED_NUMBERS = 4_000_000


# -- weights ----------------------------------------------------------------------------------------------------------
@contextmanager
def readable_weights(source: str):
    """Turns the error of an unreadable file of weights into an OSError that names its source and the remedy."""
    try:
        yield
    except SafetensorError as error:
        raise OSError(
            f"The weights of {source} cannot be read ({error}): the file is damaged or was cut short. Download it "
            "again with force_download=True, or save the model again."
        ) from error


def require_complete(loading_info: dict, source: str) -> None:
    """Raises ValueError when a file did not hold every weight of the model, by what
    `from_pretrained(..., output_loading_info=True)` returns beside it."""
    missing = sorted(loading_info.get("missing_keys") or ())
    misshapen = sorted(str(key) for key in loading_info.get("mismatched_keys") or ())
    if not missing and not misshapen:
        return
    shown = ", ".join((missing + misshapen)[:4])
    unexpected = sorted(loading_info.get("unexpected_keys") or ())
    hint = f" It holds {len(unexpected)} keys under other names, such as {unexpected[0]}." if unexpected else ""
    raise ValueError(
        f"{source} lacks {len(missing) + len(misshapen)} weights of this model ({shown}); they would be random.{hint} "
        "Use a file of this very model, or convert it first."
    )


def require_finite(module: nn.Module, source: str) -> None:
    """Raises ValueError when a weight of at most `_CHECKED_NUMBERS` is NaN or infinite."""
    for name, weight in module.state_dict().items():
        is_read = isinstance(weight, torch.Tensor) and weight.is_floating_point() and not weight.is_meta
        if is_read and weight.numel() <= _CHECKED_NUMBERS and not bool(torch.isfinite(weight).all()):
            raise ValueError(
                f"{source}: the weight {name} in model.safetensors is NaN or infinite: the training has failed, or "
                "the file is damaged. Load it once with force_download=True, or train again with a smaller learning "
                "rate."
            )


class CompleteLoadingMixin:
    """Makes `from_pretrained` refuse a file that lacks weights of the model, or holds weights that are not finite."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, output_loading_info: bool = False, **kwargs):
        source, misshapen_allowed = str(pretrained_model_name_or_path), kwargs.pop("ignore_mismatched_sizes", False)
        kwargs |= {"output_loading_info": True, "ignore_mismatched_sizes": True}  # else the error would not say which
        with readable_weights(source):
            model, info = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        require_complete({**info, "mismatched_keys": ()} if misshapen_allowed else info, source)
        require_finite(getattr(model, "heads", model), source)
        return (model, info) if output_loading_info else model


# -- a processor's files ----------------------------------------------------------------------------------------------
# Scripts, digits, spaces, marks and upper case: what tokenizers differ in.
_PROBES = ("A cat slept on MY keyboard, 3 times: naïve café!", "Schöne Grüße\n\tto 東京 and Москва 🎈 (x2 = 0.25)")
# As many words in each: a tokenizer without words makes as many unknown ones of both.
_SAID = ("a cat slept here", "the red balloon flew")
_TOKENIZERS = {"tokenizer": "tokenizer.json", "target_tokenizer": "target_tokenizer/tokenizer.json"}
_TOKENIZER_FILES = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.json")
# What tokenizers that are not saved as tokenizer.json are made from.
_WORD_FILES = ("vocab.json", "vocab.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
_RELOAD = "Load the release's own files again (force_download=True for one of the Hub), or save the processor again."


def _ids(tokenizer, texts, **options) -> list:
    return [tokenizer(text, verbose=False, **options)["input_ids"] for text in texts]


def _tokenizers(processor) -> dict:
    names = [name for name in _TOKENIZERS if name in type(processor).get_attributes()]
    return {name: getattr(processor, name) for name in names if getattr(processor, name, None) is not None}


def processor_fingerprint(processor) -> dict:
    """What a processor makes of a few fixed texts and dialogues, as hashes, and the sizes of its vocabularies."""

    def digest(value) -> str:
        return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]

    found: dict = {"vocabulary": {}}
    contexts = processor.probe_contexts()
    for name, tokenizer in _tokenizers(processor).items():
        special = name != "tokenizer" or contexts is None  # otherwise they are the contexts' own
        found[name] = digest(_ids(tokenizer, _PROBES, add_special_tokens=special))
        found["vocabulary"][name] = len(tokenizer)
    if contexts is not None:
        found["context"] = digest([*contexts, processor.picture_prompt, processor.caption_prompt])
    return found


class _Place:
    """A folder or a repository of the Hub, of which only what is on this computer is looked at."""

    def __init__(self, source, kwargs: dict):
        self.source, self.subfolder = os.fspath(source), kwargs.get("subfolder") or ""
        self.hub = {"cache_dir": kwargs.get("cache_dir"), "revision": kwargs.get("revision")}

    def file(self, name: str) -> str | None:
        """The path of a file, or None where there is none."""
        name = f"{self.subfolder}/{name}".lstrip("/")
        if os.path.isdir(self.source):
            path = os.path.join(self.source, name)
            return path if os.path.isfile(path) else None
        with suppress(ValueError, OSError):  # no name of a repository
            found = try_to_load_from_cache(self.source, name, **self.hub)
            return found if isinstance(found, str) else None
        return None

    def json(self, name: str) -> dict:
        """What a JSON file holds; nothing where there is none."""
        path = self.file(name)
        found = {} if path is None else json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError(f"{name} contains no JSON object")
        return found

    def lacks(self, name: str) -> bool:
        """Whether a folder holds a tokenizer's settings and no words: transformers makes an empty one then."""
        folder, words = os.path.dirname(name), (os.path.basename(name), *_WORD_FILES)
        settings = os.path.isdir(self.source) and self.file(os.path.join(folder, "tokenizer_config.json"))
        return bool(settings) and not any(self.file(os.path.join(folder, one)) for one in words)

    def first_damaged(self) -> tuple[str, str] | None:
        """The first of a processor's files that is missing or cannot be read, and why."""
        names = ["processor_config.json", "preprocessor_config.json", "config.json"]
        names += [f"{part}{name}" for part in ("", "target_tokenizer/") for name in _TOKENIZER_FILES]
        for name in names:
            try:
                self.json(name)
                path = self.file(name)
                if path is not None and name.endswith("tokenizer.json"):
                    Tokenizer.from_file(path)
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:  # Rust's panics are no `Exception`
                return name, str(error).split("\n")[0]
        return next(((name, "it is missing") for name in _TOKENIZERS.values() if self.lacks(name)), None)


class WholeProcessorMixin:
    """Saves a processor with its fingerprint, and refuses files that are damaged, belong to another model, or make
    something else of the same texts: no vector changes in silence."""

    # Whether images are fetched from URLs; no file can set it.
    allow_urls = False

    def probe_contexts(self) -> list | None:
        """Token ids of two different dialogues and of one with an image, from the template to the last token; None
        for a processor without contexts."""
        return None

    def save_pretrained(self, save_directory, **kwargs):
        """Saves all parts. A fast tokenizer writes its last truncation and padding into its file: reset them first."""
        for tokenizer in _tokenizers(self).values():
            backend = getattr(tokenizer, "backend_tokenizer", None)
            if backend is not None:
                backend.no_truncation()
                backend.no_padding()
        self.fingerprint = processor_fingerprint(self)
        return super().save_pretrained(save_directory, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, allow_urls: bool = False, **kwargs):
        """Loads a processor; `allow_urls` sets that attribute."""
        place = _Place(pretrained_model_name_or_path, kwargs)
        try:
            processor = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        except (KeyboardInterrupt, SystemExit, GeneratorExit, ImportError, MemoryError, OSError):
            raise
        except BaseException as error:  # Rust's panics are no `Exception`
            damaged = place.first_damaged()
            if damaged is None and type(error) is ValueError:  # says itself what is wrong
                raise
            name, reason = damaged or ("its processor", f"{type(error).__name__}: {error}".split("\n")[0])
            raise ValueError(f"{place.source}: {name} cannot be read ({reason:.200}). {_RELOAD}") from error
        chosen = set(kwargs) & set(inspect.signature(cls.__init__).parameters)
        try:
            config = place.json("config.json")
        except (OSError, ValueError) as error:
            raise ValueError(f"{place.source}: config.json cannot be read ({error!s:.200}). {_RELOAD}") from error
        fault = next(_faults(processor, place, bool(chosen), config), None)
        if fault is not None:
            raise ValueError(f"{place.source}: {fault}. {_RELOAD}")
        # What the model beside it needs for anchored queries, whatever the processor was saved as.
        for name in ("query_anchor", "anchor_base_model", "anchor_base_revision"):
            if hasattr(processor, name) and name not in chosen and config.get(name) is not None:
                setattr(processor, name, config[name])
        processor.allow_urls = allow_urls
        return processor


def _faults(processor, place: _Place, chosen: bool, config: dict):
    """What does not fit, one sentence each: within the processor, with its fingerprint (unless a caller has `chosen`
    other arguments), with the model's configuration."""
    # A tokenizer or a template to which all texts are alike misses something.
    for name, tokenizer in _tokenizers(processor).items():
        ids = _ids(tokenizer, _SAID, add_special_tokens=False)
        if place.lacks(_TOKENIZERS[name]) or ids[0] == ids[1] or not all(ids):
            yield f"{_TOKENIZERS[name]} is missing or damaged: all texts have the same tokens"
    contexts = processor.probe_contexts()
    if contexts is not None:
        images = contexts[-1].count(processor.image_token_id)
        if contexts[0] == contexts[1] or images != processor.num_visual_tokens:
            yield "chat_template.jinja does not write what is said, or not each image once"
    saved = processor.fingerprint
    if saved:  # older releases have none
        found = processor_fingerprint(processor)
        for name, file in _TOKENIZERS.items():
            sizes = [one.get("vocabulary", {}).get(name) for one in (saved, found)]
            if sizes[0] != sizes[1]:
                yield f"{file} has {sizes[1]} tokens, and the processor was saved with {sizes[0]}"
            if saved.get(name) != found.get(name) and not chosen:
                yield f"{file} makes other tokens of the same texts than when the processor was saved"
        if saved.get("context") != found.get("context") and not chosen:
            yield (
                "chat_template.jinja or processor_config.json (readout_prompt, picture_prompt, tokens) makes other "
                "contexts of the same dialogues than when the processor was saved"
            )
    dual, tokenizers = config.get("clip_config") or {}, _tokenizers(processor)
    target = "target_tokenizer" if "target_tokenizer" in tokenizers else "tokenizer"
    texts = [dual.get("text_config"), (dual.get("model_cfg") or {}).get("text_cfg"), dual.get("text_tower_config")]
    for name, parts in (("tokenizer", [config.get("text_config")]), (target, texts)):
        sizes = (part.get("vocab_size") for part in parts if isinstance(part, dict))
        size = next((size for size in sizes if isinstance(size, int)), None)
        if size is None or name not in tokenizers:
            continue
        added = set(tokenizers[name].added_tokens_decoder)  # such as [RET], which a model's own table need not hold
        largest = max((token for token in tokenizers[name].get_vocab().values() if token not in added), default=-1)
        if largest >= size:
            yield f"{_TOKENIZERS[name]} has tokens up to {largest}, and the model of config.json {size} of them"
    for name in ("ret_token_ids", "image_token_id"):
        if config.get(name) is not None and hasattr(processor, name) and config[name] != getattr(processor, name):
            yield f"tokenizer.json has {name} {getattr(processor, name)}, and config.json {config[name]}"


# -- one backbone -----------------------------------------------------------------------------------------------------
def _commit(source: str, revision: str | None, hub: dict) -> str | None:
    """The commit on the Hub that a branch or a tag stands for; None for a folder."""
    is_commit = isinstance(revision, str) and len(revision) == 40 and set(revision) <= set("0123456789abcdef")
    if os.path.isdir(source) or is_commit:
        return revision
    config = hf_hub_download(source, "config.json", revision=revision, **hub)
    return Path(config).parent.name  # <cache>/models--owner--name/snapshots/<commit>/config.json


def load_backbone(part: str, source, revision: str | None = None, classes: dict | None = None, **kwargs):
    """One frozen model, whole, and its commit on the Hub.

    Args:
        part (`str`): `"text"`, a causal language model, or `"clip"`, a dual encoder (see `load_dual_encoder`).
        source (`str` or `PreTrainedModel`): Hub id, folder, or the model itself, which is returned as it is.
        revision (`str`, *optional*): branch, tag or commit.
        classes (`dict`, *optional*): classes of model types that transformers does not have.
        kwargs: those of `from_pretrained`.

    Raises:
        OSError: it cannot be loaded; the message names the id and the revision.
        ValueError: its file lacks weights.
    """
    if not isinstance(source, (str, os.PathLike)):
        return source, None
    where = f"{source!r}" + (f" at revision {revision}" if revision else "")
    hub = {key: kwargs[key] for key in HUB_ARGUMENTS if key in kwargs}
    try:
        commit = _commit(os.fspath(source), revision, hub)
        if commit:
            kwargs["revision"] = hub["revision"] = commit
        cls = AutoModelForCausalLM if part == "text" else AutoModel
        if classes:
            cls = classes.get(PreTrainedConfig.get_config_dict(source, **hub)[0].get("model_type"), cls)
        kwargs |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
        with readable_weights(where):
            model, info = cls.from_pretrained(source, **kwargs)
    except (OSError, HFValidationError) as error:
        raise OSError(
            f"The frozen {BACKBONE_NAMES[part]} {where} could not be loaded: it is missing, was moved, or cannot be "
            f"reached. Check the id and the revision, or pass {BACKBONES[part]}=<folder or Hub id>. "
            f"({str(error).splitlines()[0]})"
        ) from error
    require_complete(info, f"The frozen {BACKBONE_NAMES[part]} {where}")
    return model, commit
