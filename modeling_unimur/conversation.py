"""Everything a caller may pass, brought into one form: dialogues, options, and the images and texts that both models'
processors prepare for a dual encoder."""

from __future__ import annotations

import copy
import html
import os

import torch
from torch.nn import functional as F
from transformers import AutoImageProcessor, AutoTokenizer, BatchFeature, PreTrainedConfig, ProcessorMixin
from transformers.processing_utils import ImagesKwargs, ProcessingKwargs, Unpack

from .image_loading import IMAGE_FORMATS, Image, decode_base64, load_image
from .loading import WholeProcessorMixin

try:
    import ftfy
except ImportError:  # only for encoders whose texts are cleaned
    ftfy = None

# What a call may say about texts, and the values that it may take.
TEXT_OPTIONS = {
    "padding": (True, False, "longest", "max_length", "do_not_pad"),
    "truncation": (True, False, "longest_first", "do_not_truncate"),
    "max_length": None,
}
# None leaves texts as they are; "clip" is what OpenAI's CLIP and open_clip do.
CLEANINGS = (None, "clip")
_IMAGE_ENDINGS = tuple(suffix for suffix, kind in Image.registered_extensions().items() if kind in IMAGE_FORMATS)
# The keys under which a part of type "image" may carry its image, in the order in which they are looked for.
_IMAGE_KEYS = ("image", "path", "url", "base64")


def is_message(value) -> bool:
    """Whether the value is one chat message."""
    return isinstance(value, dict) and "role" in value and "content" in value


def is_image(value) -> bool:
    """Whether a query is one image: an image, its bytes, an array, a path object, a `data:image` URI, or a string that
    names an existing image file. Every other string is a text."""
    if isinstance(value, (Image.Image, os.PathLike, bytes, bytearray)) or hasattr(value, "__array_interface__"):
        return True
    if not isinstance(value, str):
        return False
    is_file = value.lower().endswith(_IMAGE_ENDINGS) and os.path.isfile(value)
    return is_file or value[:11].lower() == "data:image/"


def words_of_turn(message: dict) -> str:
    """The words of one message, without its images."""
    content = message["content"]
    if isinstance(content, str):
        return content.strip()
    return " ".join(part["text"] for part in content or () if part["type"] == "text").strip()


def words_of_dialogue(messages: list[dict]) -> str:
    """The words of all turns, a line each, without the images."""
    return "\n".join(words for words in map(words_of_turn, messages) if words)


def require_unicode(text: str, where: str) -> str:
    """Returns the text. Raises ValueError for half of a surrogate pair, which no tokenizer and no file takes."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{where} is not valid Unicode: character {error.start} is {text[error.start]!a}, half of a surrogate "
            "pair. Decode the text with errors='replace', or remove the character."
        ) from error
    return text


def is_conversation(value) -> bool:
    """Whether the value is one dialogue, as opposed to a batch of them."""
    if isinstance(value, (list, tuple)):
        return len(value) > 0 and is_message(value[0])
    return True


def _image_source(part: dict, kind: str, where: str):
    """What an image part carries: `{"type": "image"}` by any of its keys, or OpenAI's `{"type": "image_url"}`."""
    if kind == "image_url":
        source = part.get("image_url")
        source = source.get("url") if isinstance(source, dict) else source
        if not isinstance(source, str):
            raise ValueError(f'{where}: write an image_url part {{"type": "image_url", "image_url": {{"url": ...}}}}.')
        return source
    key = next((key for key in _IMAGE_KEYS if part.get(key) is not None), None)
    if key is None:
        raise ValueError(f"{where}: an image part carries its image under one of {', '.join(_IMAGE_KEYS)}.")
    source = part[key]
    if key == "base64" and isinstance(source, str) and source[:5].lower() != "data:":
        return decode_base64(source, where)
    return source


def _parts(content, where: str) -> list:
    if isinstance(content, str):
        return [("text", require_unicode(content, where))]
    if content is None:
        return []
    if not isinstance(content, (list, tuple)):
        raise ValueError(f"{where}: content is a string or a list of parts, not {type(content).__name__}.")
    parts = []
    for position, part in enumerate(content):
        place = f"{where}, part {position}"
        if isinstance(part, str):
            part = {"type": "text", "text": part}
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            parts.append(("text", require_unicode(part["text"], place)))
        elif kind in ("image", "image_url"):
            parts.append(("image", _image_source(part, kind, place)))
        else:
            raise ValueError(
                f"{place}: expected {{'type': 'text', 'text': str}} or {{'type': 'image', 'image': path, bytes or "
                f"image}}, got {part!r:.120}."
            )
    return parts


def read_conversation(value, where: str = "The input", allow_urls: bool = False, load=load_image) -> tuple[list, list]:
    """One dialogue as chat messages with placeholders, and its images.

    Args:
        value: a list of chat messages, a string, or one image (path of a file, bytes, `PIL.Image`, array).
        where (`str`): how to call it in an error.
        allow_urls (`bool`): whether an image may be fetched from a URL.
        load: called with an image and `allow_urls`; what it returns stands for the image.

    Returns:
        `tuple[list[dict], list[PIL.Image.Image]]`: messages whose content is a list of text and image parts, empty
        ones left out, and the images in the order of the image parts.

    Raises:
        ValueError: for a malformed or empty dialogue, or an image that cannot be read.
        FileNotFoundError: for an image that is not there.
    """
    if is_image(value):
        value = [{"role": "user", "content": [{"type": "image", "image": value}]}]
    elif isinstance(value, str):
        value = [{"role": "user", "content": value}]
    elif is_message(value):
        value = [value]
    if not isinstance(value, (list, tuple)) or not all(is_message(message) for message in value):
        raise ValueError(
            f"{where}: expected a string, an image, or chat messages like "
            f'[{{"role": "user", "content": "..."}}], got {value!r:.160}.'
        )
    messages, images = [], []
    for number, message in enumerate(value):
        content = []
        place = f"{where}, turn {number}"
        for kind, part in _parts(message["content"], place):
            if kind == "image":
                try:
                    images.append(load(part, allow_urls=allow_urls))
                except FileNotFoundError as error:
                    raise FileNotFoundError(f"{place}: {error}") from error
                except (ValueError, OSError) as error:
                    raise ValueError(f"{place}: {error}") from error
                content.append({"type": "image"})
            elif content and content[-1]["type"] == "text":
                content[-1]["text"] += part  # in one piece, so that no special token hides in two
            elif part.strip():
                content.append({"type": "text", "text": part})
        if content:
            messages.append({"role": message["role"], "content": content})
    if not messages:
        raise ValueError(f"{where} is empty: a dialogue needs at least one word or one image.")
    return messages, images


# -- options and texts ------------------------------------------------------------------------------------------------
class RetrievalProcessorKwargs(ProcessingKwargs, total=False):
    """Options of a call: `padding`, `truncation` and `max_length` of texts, `return_tensors` ("pt", "np" or None for
    lists), and those of the image processor; flat, or in `text_kwargs`, `images_kwargs` and `common_kwargs`."""


def sort_options(options: dict) -> tuple[dict, dict, str | None]:
    """Sorts the options of a call into those for texts, those for images, and `return_tensors`. Raises TypeError for
    an unknown option or one that is passed twice, and ValueError for a wrong value."""
    flat: dict = {}
    for key, value in options.items():
        group = value if key in ("text_kwargs", "images_kwargs", "common_kwargs") else {key: value}
        for name, choice in (group or {}).items():
            if name in flat:
                raise TypeError(f"{name} is passed twice, by itself and in {key}.")
            flat[name] = choice
    text, images, tensors = {}, {}, flat.pop("return_tensors", "pt")
    for name, choice in flat.items():
        if name in TEXT_OPTIONS:
            allowed = TEXT_OPTIONS[name]
            if allowed is not None and choice is not None and choice not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {choice!r}.")
            text[name] = choice
        elif name in ImagesKwargs.__annotations__:
            images[name] = choice
        else:
            raise TypeError(
                f"Unexpected keyword argument {name!r}: a processor takes {', '.join(TEXT_OPTIONS)}, return_tensors "
                "and the options of its image processor."
            )
    return {name: choice for name, choice in text.items() if choice is not None}, images, tensors


def as_batch(data: dict, tensors: str | None) -> BatchFeature:
    """Lists or tensors as a batch of one kind of tensors. Raises ValueError for rows of different lengths, and for
    another kind than "pt", "np" and None."""
    if tensors is None:
        data = {name: rows.tolist() if hasattr(rows, "tolist") else rows for name, rows in data.items()}
    return BatchFeature(data, tensor_type=tensors)


def check_cleaning(how: str | None) -> str | None:
    """The choice itself; a ValueError if it is none of `CLEANINGS`."""
    if how not in CLEANINGS:
        raise ValueError(f"clean_text must be one of {', '.join(map(repr, CLEANINGS))}, got {how!r}.")
    return how


def clean_texts(texts: list[str], how: str | None) -> list[str]:
    """Texts, cleaned as a tokenizer expects them: `"clip"` is `basic_clean` and `whitespace_clean` of OpenAI's CLIP
    (`simple_tokenizer.py`), which its tokenizer in transformers leaves out. Raises ImportError without ftfy."""
    if how is None:
        return texts
    if ftfy is None:
        raise ImportError("clean_text='clip' needs ftfy: `pip install unimur[clean_text]`, or `pip install ftfy`.")
    return [" ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split()).lower() for text in texts]


# -- the dual encoder's inputs ----------------------------------------------------------------------------------------
class DualEncoderProcessor(WholeProcessorMixin, ProcessorMixin):
    """Base class: images and texts for a dual encoder, by its `image_processor` and its `target_tokenizer`. Subclasses
    set `target_padding`, `max_target_tokens` and `clean_text`."""

    # What errors call a query.
    query_kind = "dialogue"

    @classmethod
    def dual_encoder_parts(cls, clip: str, revision: str | None, hub: dict, chosen: dict) -> tuple:
        """The image processor and the tokenizer of a dual encoder; how its texts are padded and cut goes into
        `chosen`, arguments of the constructor, where they do not say it."""
        hub = {**hub, "revision": revision}
        tokenizer = AutoTokenizer.from_pretrained(clip, **hub)
        about, _ = PreTrainedConfig.get_config_dict(clip, **hub)
        if about.get("model_type", "").startswith("siglip"):
            chosen.setdefault("target_padding", "max_length")
        if tokenizer.model_max_length < 100_000:
            chosen.setdefault("max_target_tokens", tokenizer.model_max_length)
        return AutoImageProcessor.from_pretrained(clip, **hub), tokenizer

    def read_all(self, queries, allow_urls: bool | None, first: int | None, load=load_image) -> tuple[list, list]:
        """Messages and images of one query or several, which errors call by their number from `first` on; `load` is
        that of `read_conversation`."""
        if is_conversation(queries):
            queries, first = [queries], None
        queries = list(queries)
        if not queries:
            raise ValueError(f"No {self.query_kind}: pass at least one.")
        allow_urls = self.allow_urls if allow_urls is None else allow_urls
        kind, several = self.query_kind, range(len(queries))
        names = (f"The {kind}" if first is None else f"{kind.capitalize()} {first + number}" for number in several)
        read = [read_conversation(one, name, allow_urls, load) for one, name in zip(queries, names, strict=True)]
        return [messages for messages, _ in read], [images for _, images in read]

    def load_images(self, images, allow_urls: bool | None = None) -> list:
        """One image or a list, as `load_image` takes them, decoded."""
        images = list(images) if isinstance(images, (list, tuple)) else [images]
        allow_urls = self.allow_urls if allow_urls is None else allow_urls
        return [load_image(image, allow_urls=allow_urls) for image in images]

    def process_images(
        self, images, allow_urls: bool | None = None, **kwargs: Unpack[RetrievalProcessorKwargs]
    ) -> BatchFeature:
        """Prepares candidate images for `get_image_features`: `pixel_values` `(images, 3, height, width)`.

        Args:
            images: one image or a list: paths, bytes, PIL images or arrays.
            allow_urls (`bool`, *optional*): whether images may be fetched from URLs; the attribute by default.
            kwargs: `return_tensors` and options of the image processor.

        Raises:
            ValueError, FileNotFoundError: naming the image.
            TypeError: an unknown option.
        """
        _, options, tensors = sort_options(kwargs)
        loaded = self.load_images(images, allow_urls)
        return as_batch(dict(self.image_processor(loaded, return_tensors="pt", **options)), tensors)

    def process_texts(
        self, texts: str | list[str], keep: str = "first", **kwargs: Unpack[RetrievalProcessorKwargs]
    ) -> BatchFeature:
        """Prepares candidate texts for `get_text_features`: `input_ids`, `attention_mask` `(texts, tokens)`.

        Args:
            texts (`str` or `list[str]`): a string is always a text, whatever it looks like.
            keep (`str`): which tokens of a longer text are kept, the `"first"` or the `"latest"`.
            kwargs: `padding` (`target_padding` by default), `truncation` (True), `max_length` (`max_target_tokens`)
                and `return_tensors`.

        Raises:
            ValueError: a text is not a string, or not valid Unicode.
            TypeError: an unknown option.
        """
        options, _, tensors = sort_options(kwargs)
        texts = [texts] if isinstance(texts, str) else list(texts)
        for number, text in enumerate(texts):
            if not isinstance(text, str):
                raise ValueError(f"Text {number} is {type(text).__name__}, not a string.")
            require_unicode(text, f"Text {number}")
        options = {"padding": self.target_padding, "truncation": True, "max_length": self.max_target_tokens, **options}
        tokenizer = self.target_tokenizer
        if keep == "latest":
            tokenizer = copy.copy(tokenizer)  # of the settings; the words are shared
            tokenizer.truncation_side = "left"
        encoded = tokenizer(clean_texts(texts, self.clean_text), verbose=False, **options)
        keys = ("input_ids",) if self.target_padding == "max_length" else ("input_ids", "attention_mask")
        return as_batch({key: encoded[key] for key in keys}, tensors)

    @staticmethod
    def score_retrieval(query_embeds: torch.Tensor, candidate_embeds: torch.Tensor) -> torch.Tensor:
        """Cosines `(queries, candidates)` of `(queries, width)` and `(candidates, width)`."""
        queries, candidates = (F.normalize(one.float(), dim=-1) for one in (query_embeds, candidate_embeds))
        return queries @ candidates.T
