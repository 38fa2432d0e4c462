"""What a client sends, read and checked before the model hears of it."""

from __future__ import annotations

import base64
import binascii
import io
import json
from dataclasses import dataclass
from typing import Any

from ..image_loading import Image, load_image
from ..payload_filters import conditions
from .limits import ServingLimits

MODALITIES = ("both", "text", "image", "joint")
_FIELDS = {"messages", "top_k", "modality", "where"}


class Refused(Exception):
    """A request that is not answered.

    Args:
        status: of HTTP.
        reason: for the client.
    """

    def __init__(self, status: int, reason: str):
        super().__init__(reason)
        self.status, self.reason = status, reason


@dataclass
class RetrievalRequest:
    """A dialogue with its pictures decoded, and how its answer is to be ranked."""

    messages: list[dict]
    top_k: int = 5
    modality: str = "both"
    where: dict | None = None


def read_request(body: bytes, limits: ServingLimits) -> RetrievalRequest:
    """Reads `{"messages": [...], "top_k", "modality", "where"}`.

    Messages are chat messages; a picture comes with its bytes, as `{"type": "image", "image": "<base64>"}`, with or
    without `data:image/png;base64,` in front. Paths and addresses are refused: no client has the server open files.

    Raises:
        Refused: 400 for what is no such request, 422 for what is too much or no picture.
    """
    try:
        request = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"The body is no JSON: {error}.") from error
    if isinstance(request, dict) and isinstance(request.get("messages"), str):
        request["messages"] = [{"role": "user", "content": request["messages"]}]
    if not isinstance(request, dict) or not isinstance(request.get("messages"), list) or not request["messages"]:
        raise Refused(400, 'The body is an object with "messages", a list of chat messages or a string.')
    if unknown := sorted(set(request) - _FIELDS):
        raise Refused(400, f"Unknown fields {unknown}; there are {sorted(_FIELDS)}.")
    if len(request["messages"]) > limits.turns:
        raise Refused(422, f"{len(request['messages'])} turns; at most {limits.turns} are read.")
    top_k, modality, where = request.get("top_k", 5), request.get("modality", "both"), request.get("where")
    if not isinstance(top_k, int) or isinstance(top_k, bool) or not 1 <= top_k <= limits.top_k:
        raise Refused(422, f"top_k is a whole number from 1 to {limits.top_k}, not {top_k!r:.40}.")
    if modality not in MODALITIES:
        raise Refused(422, f"modality is one of {MODALITIES}, not {modality!r:.40}.")
    try:
        conditions(where)
    except ValueError as error:
        raise Refused(422, str(error)) from error
    reader = _Reader(limits)
    messages = [reader.message(number, message) for number, message in enumerate(request["messages"])]
    if not (reader.has_words or reader.pictures):
        raise Refused(422, "The dialogue is empty: it needs at least one word or one picture.")
    return RetrievalRequest(messages, top_k, modality, where)


class _Reader:
    """Messages of one dialogue; counts what they hold."""

    def __init__(self, limits: ServingLimits):
        self.limits, self.characters, self.pictures, self.has_words = limits, 0, 0, False

    def message(self, number: int, message: Any) -> dict:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str) or "content" not in message:
            raise Refused(400, f"Message {number} is no chat message with role and content.")
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if not isinstance(parts, list):
            raise Refused(400, f"Message {number}: content is a string or a list of parts.")
        return {"role": message["role"], "content": [self._part(number, part) for part in parts]}

    def _part(self, number: int, part: Any) -> dict:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            self.characters += len(part["text"])
            self.has_words |= bool(part["text"].strip())
            if self.characters > self.limits.characters:
                raise Refused(422, f"More than {self.limits.characters} characters.")
            return {"type": "text", "text": part["text"]}
        source = part.get("image", part.get("base64")) if kind == "image" else None
        if not isinstance(source, str):
            raise Refused(400, f"Message {number}: a part is a text, or an image with its bytes in base64.")
        self.pictures += 1
        if self.pictures > self.limits.pictures:
            raise Refused(422, f"More than {self.limits.pictures} pictures.")
        return {"type": "image", "image": self._picture(number, source)}

    def _picture(self, number: int, source: str) -> Image.Image:
        if source.startswith("data:"):
            source = source.partition(",")[2]
        try:
            data = base64.b64decode(source, validate=True)
        except (binascii.Error, ValueError) as error:
            raise Refused(422, f"Message {number}: a picture comes as base64, not as a path or address.") from error
        try:
            with Image.open(io.BytesIO(data)) as picture:
                return load_image(picture, max_pixels=self.limits.pixels)
        except Exception as error:  # damaged files make decoders raise nearly anything
            raise Refused(422, f"Message {number}: not a picture that can be decoded: {error!s:.200}") from error


__all__ = ["MODALITIES", "Refused", "RetrievalRequest", "read_request"]
