"""Everything a caller may pass as a dialogue, brought into one form."""

import os

from .image_loading import Image, load_image

_IMAGE_ENDINGS = tuple(Image.registered_extensions())


def is_message(value) -> bool:
    """Whether the value is one chat message."""
    return isinstance(value, dict) and "role" in value and "content" in value


def is_image(value) -> bool:
    """Whether the value stands for one picture: an image, an array, a path object, or a string that names a file
    with the ending of a picture."""
    if isinstance(value, (Image.Image, os.PathLike)) or hasattr(value, "__array_interface__"):
        return True
    # A sentence can end in ".png" as well; only a single word or an existing file is taken for a path.
    return (
        isinstance(value, str)
        and value.lower().endswith(_IMAGE_ENDINGS)
        and (not any(c.isspace() for c in value) or os.path.exists(value))
    )


def is_conversation(value) -> bool:
    """Whether the value is one dialogue, as opposed to a batch of them."""
    if isinstance(value, (list, tuple)):
        return len(value) > 0 and is_message(value[0])
    return True


def _parts(content, where: str) -> list:
    if isinstance(content, str):
        return [("text", content)]
    if content is None:
        return []
    if not isinstance(content, (list, tuple)):
        raise ValueError(f"{where}: content is a string or a list of parts, not {type(content).__name__}.")
    parts = []
    for position, part in enumerate(content):
        if isinstance(part, str):
            part = {"type": "text", "text": part}
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            parts.append(("text", part["text"]))
        elif kind == "image":
            source = next((part[key] for key in ("image", "path", "url", "base64") if part.get(key) is not None), None)
            if source is None:
                raise ValueError(f"{where}, part {position}: an image part carries its picture under 'image'.")
            parts.append(("image", source))
        else:
            raise ValueError(
                f"{where}, part {position}: expected {{'type': 'text', 'text': str}} or {{'type': 'image', 'image': "
                f"path or picture}}, got {part!r:.120}."
            )
    return parts


def _load(source, where: str, allow_urls: bool, load):
    try:
        return load(source, allow_urls=allow_urls)
    except (ValueError, FileNotFoundError) as error:
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        raise kind(f"{where}: {error}") from error


def read_conversation(value, where: str = "The input", allow_urls: bool = False, load=load_image) -> tuple[list, list]:
    """One dialogue as chat messages with placeholders, and its pictures.

    Args:
        value: a list of chat messages, a string, or one picture (path, `PIL.Image`, array).
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
            f"{where}: expected a string, a picture, or chat messages like "
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
        raise ValueError(f"{where} is empty: a dialogue needs at least one word or one picture.")
    return messages, images


__all__ = ["is_conversation", "is_image", "is_message", "read_conversation"]
