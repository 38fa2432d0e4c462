"""What a processor's files must agree in: checked when they are loaded, so that no vector changes in silence."""

import hashlib
import inspect
import json
import os
from contextlib import contextmanager

from huggingface_hub import try_to_load_from_cache

try:
    from tokenizers import Tokenizer
except ImportError as error:
    raise ImportError("tokenizers, which comes with transformers, is not installed.") from error

# Scripts, digits, spaces, marks and upper case: what tokenizers differ in.
_PROBES = ("A cat slept on MY keyboard, 3 times: naïve café!", "Schöne Grüße\n\tto 東京 and Москва 🎈 (x2 = 0.25)")
# As many of them in each: a tokenizer without words makes as many unknown ones of both.
_WORDS = ("a cat slept here", "the red balloon flew")
_DIALOGUES = (
    [{"role": "user", "content": "probe one"}, {"role": "assistant", "content": "Sure, probe two."}],
    [{"role": "user", "content": "probe three"}],
)
_TOKENIZERS = {"tokenizer": "tokenizer.json", "target_tokenizer": "target_tokenizer/tokenizer.json"}
_REMEDY = "Load the release's own files again (force_download=True for one of the Hub), or save the processor again."


def processor_fingerprint(processor) -> dict:
    """What the processor makes of a few fixed texts and dialogues, as hashes, and the sizes of its vocabularies.

    Args:
        processor (`UniMuRProcessor` or `UniVLDRProcessor`): with its tokenizers.
    """
    found: dict = {"vocabulary": {}}
    contexts = _contexts(processor)
    for name, tokenizer in _tokenizers(processor).items():
        special = name != "tokenizer" or contexts is None  # otherwise they are the contexts' own
        ids = [tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"] for text in _PROBES]
        found[name], found["vocabulary"][name] = _hash(ids), len(tokenizer)
    if contexts is not None:
        found["context"] = _hash([*contexts, processor.picture_prompt, processor.caption_prompt])
    return found


def _hash(value) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def _tokenizers(processor) -> dict:
    names = [name for name in _TOKENIZERS if name in type(processor).get_attributes()]
    return {name: getattr(processor, name) for name in names if getattr(processor, name, None) is not None}


def _contexts(processor) -> "list | None":
    """Token ids of dialogues from the template to [RET]; None for a processor without contexts."""
    if not hasattr(processor, "render") or getattr(processor, "tokenizer", None) is None:
        return None
    image = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "probe four"}]}]
    dialogues = [[{**m, "content": [{"type": "text", "text": m["content"]}]} for m in one] for one in _DIALOGUES]
    return [
        processor.process_rendered([processor.render(dialogue)], max_length=4096)["input_ids"][0].tolist()
        for dialogue in (*dialogues, image)
    ]


class FingerprintMixin:
    """Saves a processor with its fingerprint, and refuses files that make something else of the same texts."""

    def save_pretrained(self, save_directory, **kwargs):
        self.fingerprint = processor_fingerprint(self)
        return super().save_pretrained(save_directory, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        place = _Place(pretrained_model_name_or_path, kwargs)
        with _readable(place):
            processor = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        chosen = set(kwargs) & set(inspect.signature(cls.__init__).parameters)
        _require_whole(processor, place)
        _require_same(processor, place, chosen)
        _require_model(processor, place)
        _adopt_anchor(processor, place, chosen)
        return processor


class _Place:
    """A folder or a repository of the Hub, of which only what is on this computer is looked at."""

    def __init__(self, source, kwargs: dict):
        self.source = os.fspath(source)
        self.subfolder = kwargs.get("subfolder") or ""
        self.hub = {"cache_dir": kwargs.get("cache_dir"), "revision": kwargs.get("revision")}

    def file(self, name: str) -> "str | None":
        """The path of a file, or None where there is none."""
        if os.path.isdir(self.source):
            path = os.path.join(self.source, self.subfolder, name)
            return path if os.path.isfile(path) else None
        name = f"{self.subfolder}/{name}" if self.subfolder else name
        try:
            found = try_to_load_from_cache(self.source, name, **self.hub)
        except (ValueError, OSError):  # no name of a repository
            return None
        return found if isinstance(found, str) else None

    def json(self, name: str) -> dict:
        """What a JSON file holds; nothing where there is none."""
        path = self.file(name)
        if path is None:
            return {}
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
        if not isinstance(found, dict):
            raise ValueError(f"{name} contains no JSON object")
        return found

    def first_damaged(self) -> "tuple[str, str] | None":
        """The first of a processor's files that is missing or cannot be read, and why."""
        names = ("processor_config.json", "preprocessor_config.json", "config.json")
        names += tuple(f"{part}{name}" for part in ("", "target_tokenizer/") for name in _TOKENIZER_FILES)
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

    def lacks(self, name: str) -> bool:
        """Whether a folder holds a tokenizer's settings and no words: transformers makes an empty one then."""
        if not os.path.isdir(self.source):
            return False
        folder = os.path.dirname(name)
        words = any(self.file(os.path.join(folder, one)) for one in (os.path.basename(name), *_WORD_FILES))
        return not words and self.file(os.path.join(folder, "tokenizer_config.json")) is not None


# What tokenizers that are not saved as tokenizer.json are made from.
_WORD_FILES = ("vocab.json", "vocab.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
_TOKENIZER_FILES = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.json")


@contextmanager
def _readable(place: _Place):
    """Turns what damaged files raise into one error that names the file."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit, ImportError, MemoryError, OSError):
        raise
    except BaseException as error:  # Rust's panics are no `Exception`
        damaged = place.first_damaged()
        if damaged is None and type(error) is ValueError:  # says itself what is wrong
            raise
        name, reason = damaged or ("its processor", f"{type(error).__name__}: {error}".split("\n")[0])
        raise ValueError(f"{place.source}: {name} cannot be read ({reason:.200}). {_REMEDY}") from error


def _require_whole(processor, place: _Place) -> None:
    """Refuses a tokenizer or a template to which all texts are alike: something is missing."""
    for name, tokenizer in _tokenizers(processor).items():
        ids = [tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] for text in _WORDS]
        if place.lacks(_TOKENIZERS[name]) or ids[0] == ids[1] or not all(ids):
            raise ValueError(
                f"{place.source}: {_TOKENIZERS[name]} is missing or damaged: all texts have the same tokens. {_REMEDY}"
            )
    contexts = _contexts(processor)
    if contexts is None:
        return
    images = contexts[-1].count(processor.image_token_id)
    if contexts[0] == contexts[1] or images != processor.num_visual_tokens:
        raise ValueError(
            f"{place.source}: chat_template.jinja does not write what is said, or not each image once. {_REMEDY}"
        )


def _require_same(processor, place: _Place, chosen: "set[str]") -> None:
    """Compares with the fingerprint that was saved; older releases have none."""
    saved = processor.fingerprint
    if not saved:
        return
    found = processor_fingerprint(processor)
    for name, file in _TOKENIZERS.items():
        sizes = [one.get("vocabulary", {}).get(name) for one in (saved, found)]
        if sizes[0] != sizes[1]:
            raise ValueError(
                f"{place.source}: {file} has {sizes[1]} tokens, and the processor was saved with {sizes[0]}. {_REMEDY}"
            )
        if saved.get(name) != found.get(name) and not chosen:
            raise ValueError(
                f"{place.source}: {file} makes other tokens of the same texts than when the processor was saved: "
                f"vectors would change. {_REMEDY}"
            )
    if saved.get("context") != found.get("context") and not chosen:
        raise ValueError(
            f"{place.source}: chat_template.jinja or processor_config.json (readout_prompt, picture_prompt, tokens) "
            f"makes other contexts of the same dialogues than when the processor was saved: vectors would change. "
            f"{_REMEDY}"
        )


def _require_model(processor, place: _Place) -> None:
    """Compares with the configuration of the model beside the processor, if there is one."""
    try:
        config = place.json("config.json")
    except (OSError, ValueError) as error:
        raise ValueError(f"{place.source}: config.json cannot be read ({error!s:.200}). {_REMEDY}") from error
    sizes = {"tokenizer": _vocabulary(config.get("text_config")), "target_tokenizer": None}
    dual = config.get("clip_config") or {}
    target = "target_tokenizer" if "target_tokenizer" in _tokenizers(processor) else "tokenizer"
    parts = dual.get("model_cfg") or {}
    for part in (dual.get("text_config"), parts.get("text_cfg"), dual.get("text_tower_config")):
        sizes[target] = sizes[target] or _vocabulary(part)
    for name, tokenizer in _tokenizers(processor).items():
        added = set(tokenizer.added_tokens_decoder)  # such as [RET], which a model's own table need not hold
        largest = max((token for token in tokenizer.get_vocab().values() if token not in added), default=-1)
        if sizes[name] is not None and largest >= sizes[name]:
            raise ValueError(
                f"{place.source}: {_TOKENIZERS[name]} has tokens up to {largest}, and the model of config.json "
                f"{sizes[name]} of them: they belong to different models. {_REMEDY}"
            )
    for name in ("ret_token_ids", "image_token_id"):
        if config.get(name) is not None and hasattr(processor, name) and config[name] != getattr(processor, name):
            raise ValueError(
                f"{place.source}: tokenizer.json has {name} {getattr(processor, name)}, and config.json "
                f"{config[name]}: they belong to different models. {_REMEDY}"
            )


def _adopt_anchor(processor, place: _Place, chosen: "set[str]") -> None:
    """Prepares what the model beside the processor needs for anchored queries, whatever the processor was saved as."""
    config = place.json("config.json")
    for name in ("query_anchor", "anchor_base_model", "anchor_base_revision"):
        if hasattr(processor, name) and name not in chosen and config.get(name) is not None:
            setattr(processor, name, config[name])


def _vocabulary(config) -> "int | None":
    size = config.get("vocab_size") if isinstance(config, dict) else None
    return size if isinstance(size, int) else None


__all__ = ["FingerprintMixin", "processor_fingerprint"]
