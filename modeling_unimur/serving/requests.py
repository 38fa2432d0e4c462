"""Reads and checks requests before they reach the model."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from ..conversation import words_of_dialogue
from ..index.hybrid import check_hybrid
from ..memory_index import MODALITIES, conditions
from .encoded_image import EncodedImage
from .limits import Refused, ServingLimits

ROLES = ("user", "assistant", "system", "developer", "tool")
_FIELDS = {"messages", "top_k", "modality", "where", "coherent", "hybrid", "rerank"}
# Signs between JSON values, beside those that stand in texts: each may cost Python a hundred bytes.
_MARKS_A_PART = 100
# What an image of at most a million pixels costs, in tokens of text.
_IMAGE_TOKENS = 256


@dataclass
class RetrievalRequest:
    """A dialogue with its images and ranking options.

    Args:
        messages: chat messages whose images are `EncodedImage`s until `decode`.
        top_k, modality, where, coherent, hybrid: options of the pipeline.
        tokens: the approximate number of tokens of its words.
        client: client of this chat; None for a client that does not say.
        words: the text of all turns, which `hybrid` and a second stage read.
        rerank: whether the server's second stage rescores the hits; None where the client does not say.
        is_read_again: whether a second stage reads the messages after the vector is there.
        is_document: whether the one message is a candidate, a text or an image, and not a dialogue.
        prompt_tokens: the number of tokens of the words, which the tokenizer counts when the vector is computed; None
            where nobody asks for it.
    """

    messages: list[dict]
    top_k: int = 5
    modality: str = "both"
    where: dict | None = None
    tokens: int = 1
    client: str | None = None
    coherent: bool = False
    hybrid: float | str | None = None
    words: str = ""
    rerank: bool | None = None
    is_read_again: bool = False
    is_document: bool = False
    prompt_tokens: int | None = None
    images: list[EncodedImage] = field(default_factory=list)

    def decode(self) -> RetrievalRequest:
        """Decodes the images. Raises Refused, 422, for a damaged one."""
        for number, message in enumerate(self.messages):
            for part in message["content"]:
                if isinstance(part.get("image"), EncodedImage):
                    part["image"] = at_place(f"Message {number}", part["image"].decode)
        return self

    def cost(self, max_tokens: int) -> int:
        """The cost of encoding the context, in text tokens."""
        return min(self.tokens, max_tokens) + sum(_IMAGE_TOKENS * math.ceil(i.kept_pixels / 1e6) for i in self.images)

    @property
    def order(self) -> tuple:
        """Requests for which this is equal are ranked in one search."""
        where = json.dumps(self.where, sort_keys=True)
        return self.top_k, self.modality, self.coherent, self.hybrid, self.rerank, where


def read_request(body: bytes, limits: ServingLimits) -> RetrievalRequest:
    """Reads `{"messages": [...], "top_k", "modality", "where", "coherent", "hybrid", "rerank"}`.

    Messages are chat messages; an image comes with its bytes, as `{"type": "image", "image": "<base64>"}`, with or
    without `data:image/png;base64,` in front, or as `{"type": "image_url", "image_url": {"url": "data:..."}}`. Paths
    and addresses are refused: no client has the server open files.

    Raises:
        Refused: 422 for what is no such request or is too much.
    """
    request = read_object(body, limits, _FIELDS)
    if isinstance(request.get("messages"), str):
        request["messages"] = [{"role": "user", "content": request["messages"]}]
    top_k, modality = whole_number(request, "top_k", 5, limits.top_k), one_of(request, "modality", MODALITIES)
    coherent, rerank = yes_or_no(request, "coherent", False), yes_or_no(request, "rerank", None)
    hybrid, where = request.get("hybrid"), request.get("where")
    if hybrid is not None:
        try:
            check_hybrid(hybrid)
        except ValueError as error:
            raise Refused(422, str(error)) from error
    _check_filter(where, limits)
    messages, reader = read_messages(request.get("messages"), limits)
    return RetrievalRequest(
        messages, top_k, modality, where, reader.tokens, coherent=coherent, hybrid=hybrid, rerank=rerank,
        words=words_of_dialogue(messages), images=reader.images,
    )  # fmt: skip


def whole_number(request: dict, name: str, default: int | None, most: int | None = None) -> int | None:
    """Returns a field of a request, or `default` where it is missing or null. Raises Refused, 422, unless it is a
    whole number of at least 1 and, with `most`, at most that."""
    value = request.get(name)
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= (most or value):
        limit = "of at least 1" if most is None else f"from 1 to {most}"
        raise Refused(422, f"{name} must be a whole number {limit}, got {value!r:.40}.")
    return value


def one_of(request: dict, name: str, values: tuple[str, ...]) -> str:
    """Returns a field of a request, or the first of `values` where it is missing or null. Raises Refused, 422, for any
    other value."""
    value = values[0] if request.get(name) is None else request[name]
    if value not in values:
        raise Refused(422, f"{name} must be one of {values}, got {value!r:.40}.")
    return value


def yes_or_no(request: dict, name: str, default: bool | None) -> bool | None:
    """Returns a field of a request, or `default` where it is missing or null. Raises Refused, 422, unless it is true
    or false."""
    value = default if request.get(name) is None else request[name]
    if value is not None and not isinstance(value, bool):
        raise Refused(422, f"{name} must be true or false, got {value!r:.40}.")
    return value


def at_place(place: str, work: Callable, *arguments: Any) -> Any:
    """Returns what `work` returns. If it raises Refused, the reason then begins with the place in the request."""
    try:
        return work(*arguments)
    except Refused as error:
        raise Refused(error.status, f"{place}: {error.reason}", error.retry_after) from error


def read_object(body: bytes, limits: ServingLimits, fields: Collection[str]) -> dict:
    """Parses the body as a JSON object. Raises Refused, 422, for another value, for one that is too large, and for
    fields that are not among `fields`."""
    # Base64 holds none of these signs.
    marks = sum(body.count(sign) for sign in (b"{", b"[", b",", b":"))
    if marks > limits.characters + _MARKS_A_PART * limits.parts:
        raise Refused(422, "The body holds too many JSON values.")
    try:
        request = json.loads(body.decode("utf-8-sig"), parse_constant=_no_number)
    except RecursionError as error:
        raise Refused(422, "The body is nested too deeply.") from error
    except ValueError as error:
        raise Refused(422, f"The body is no JSON: {error!s:.200}.") from error
    if not isinstance(request, dict):
        raise Refused(422, f"The body must be an object with some of {sorted(fields)}.")
    if unknown := sorted(set(request) - set(fields)):
        raise Refused(422, f"Unknown fields {unknown!r:.200}; there are {sorted(fields)}.")
    return request


def read_messages(given: Any, limits: ServingLimits) -> tuple[list[dict], MessageReader]:
    """Reads the messages of a dialogue and counts their contents. Raises Refused, 422, for what is no dialogue, is
    empty or is too long."""
    if not isinstance(given, list) or not given:
        raise Refused(422, 'The body must be an object with "messages", a list of chat messages or a string.')
    if len(given) > limits.turns:
        raise Refused(422, f"{len(given)} turns; at most {limits.turns} are read.")
    reader = MessageReader(limits)
    messages = [at_place(f"Message {number}", reader.message, message) for number, message in enumerate(given)]
    if not (reader.has_words or reader.images):
        raise Refused(422, "The dialogue is empty: it needs at least one word or one image.")
    return messages, reader


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _require_text(value: str) -> None:
    """Refuses characters that tokenizers or databases do not accept."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise Refused(422, "A text holds half of a surrogate pair.") from error
    if "\0" in value:
        raise Refused(422, "A text holds the NUL character.")


def _check_filter(where: Any, limits: ServingLimits) -> None:
    try:
        values = [value for condition in conditions(where) for value in condition.values]
    except RecursionError as error:
        raise Refused(422, "where is nested too deeply.") from error
    except ValueError as error:
        raise Refused(422, str(error)) from error
    if len(values) > limits.filter_values:
        raise Refused(422, f"where has more than {limits.filter_values} values.")
    texts = [text for text in (*(where or ()), *values) if isinstance(text, str)]
    if sum(map(len, texts)) > limits.characters:
        raise Refused(422, f"where has more than {limits.characters} characters.")
    for text in texts:
        _require_text(text)


class MessageReader:
    """Reads the messages of one dialogue and counts their contents."""

    def __init__(self, limits: ServingLimits):
        self.limits = limits
        self.parts = self.characters = self.bytes = self.pixels = 0
        self.images: list[EncodedImage] = []
        self.has_words = False

    @property
    def tokens(self) -> int:
        """The approximate number of tokens of the words. A token has about four bytes of English, and never less than
        one byte."""
        return self.bytes // 2 + 1

    def message(self, message: Any) -> dict:
        if not isinstance(message, dict) or "content" not in message:
            raise Refused(422, "not a chat message with role and content.")
        if message.get("role") not in ROLES:
            raise Refused(422, f"role must be one of {ROLES}, got {message.get('role')!r:.40}.")
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if not isinstance(parts, list):
            raise Refused(422, "content must be a string or a list of parts.")
        self.parts += len(parts)
        if self.parts > self.limits.parts:
            raise Refused(422, f"more than {self.limits.parts} parts.")
        return {"role": message["role"], "content": [self._part(part) for part in parts]}

    def _part(self, part: Any) -> dict:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            self.characters += len(part["text"])
            self.has_words |= bool(part["text"].strip())
            if self.characters > self.limits.characters:
                raise Refused(422, f"more than {self.limits.characters} characters.")
            _require_text(part["text"])
            self.bytes += len(part["text"].encode())
            return {"type": "text", "text": part["text"]}
        source = part.get("image", part.get("base64")) if kind == "image" else None
        if kind == "image_url":
            source = part["image_url"].get("url") if isinstance(part.get("image_url"), dict) else part.get("image_url")
        if not isinstance(source, str):
            raise Refused(422, "a part must be a text, or an image with its bytes in base64.")
        if len(self.images) == self.limits.images:
            raise Refused(422, f"more than {self.limits.images} images.")
        self.images.append(EncodedImage(source, self.limits))
        self.pixels += self.images[-1].pixels
        if self.pixels > self.limits.request_pixels:
            raise Refused(422, f"the images have more than {self.limits.request_pixels} pixels together.")
        return {"type": "image", "image": self.images[-1]}
