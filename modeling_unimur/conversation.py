"""Everything a caller may pass as a dialogue, brought into one form."""

import os

from .image_loading import IMAGE_FORMATS, Image, decode_base64, load_image

_IMAGE_ENDINGS = tuple(suffix for suffix, kind in Image.registered_extensions().items() if kind in IMAGE_FORMATS)
# The keys under which a part of type "image" may carry its image, in the order in which they are looked for.
_IMAGE_KEYS = ("image", "path", "url", "base64")


def is_message(value) -> bool:
    """Whether the value is one chat message."""
    return isinstance(value, dict) and "role" in value and "content" in value


def is_image(value) -> bool:
    """Whether a query is one image: an image, its bytes, an array, a path object, a `data:image` URI, or a string that
    names an existing file with the ending of an image. Every other string is a text, whatever it ends with."""
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


def require_unicode(text: str, where: str) -> str:
    """Returns the text.

    Raises:
        ValueError: it holds half of a surrogate pair, which no tokenizer and no file takes.
    """
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
            raise ValueError(
                f'{where}: an image_url part is written {{"type": "image_url", "image_url": {{"url": ...}}}}.'
            )
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


def _load(source, where: str, allow_urls: bool, load):
    try:
        return load(source, allow_urls=allow_urls)
    except (ValueError, OSError) as error:
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        raise kind(f"{where}: {error}") from error


def read_conversation(value, where: str = "The input", allow_urls: bool = False, load=load_image) -> tuple[list, list]:
    """One dialogue as chat messages with placeholders, and its pictures.

    Args:
        value: a list of chat messages, a string, or one image (path of a file, bytes, `PIL.Image`, array).
        where (`str`): how to call it in an error.
        allow_urls (`bool`): whether a picture may be fetched from a URL.
        load: called with a picture and `allow_urls`, `load_image` by default; what it returns stands for the picture.

    Returns:
        `tuple[list[dict], list[PIL.Image.Image]]`: messages whose content is a list of text and image parts, empty
        ones left out, and the pictures in the order of the image parts.

    Raises:
        ValueError: for a malformed or empty dialogue, or a picture that cannot be read.
        FileNotFoundError: for a picture that is not there.
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
        for kind, part in _parts(message["content"], f"{where}, turn {number}"):
            if kind == "image":
                images.append(_load(part, f"{where}, turn {number}", allow_urls, load))
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


__all__ = ["is_conversation", "is_image", "is_message", "read_conversation", "require_unicode", "words_of_turn"]
