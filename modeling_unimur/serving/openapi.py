"""What the bodies of requests look like, for `/openapi.json` and the page `/docs`. Requests are read by `requests.py`
and `openai_requests.py`, which count and bound what they read."""

from __future__ import annotations

from ..memory_index import MODALITIES
from .openai_requests import FORMATS, INPUT_TYPES
from .requests import ROLES

_TEXT = {"type": "string"}
_PART = {
    "type": "object",
    "properties": {
        "type": {"enum": ["text", "image", "image_url"]},
        "text": _TEXT,
        "image": {"type": "string", "description": "base64, or a data: URI"},
        "image_url": {"type": "object", "properties": {"url": {"type": "string", "description": "a data: URI"}}},
    },
    "required": ["type"],
}
_MESSAGE = {
    "type": "object",
    "properties": {"role": {"enum": list(ROLES)}, "content": {"oneOf": [_TEXT, {"type": "array", "items": _PART}]}},
    "required": ["role", "content"],
}
_DIALOGUE = {"oneOf": [_TEXT, {"type": "array", "items": _MESSAGE}]}
_COUNT = {"type": "integer", "minimum": 1}
_HYBRID = {"oneOf": [{"type": "number", "minimum": 0, "maximum": 1}, {"const": "rrf"}]}
_DOCUMENT = {"oneOf": [_TEXT, {"type": "object", "properties": {"text": _TEXT, "image": _TEXT}}]}
_BODIES = {
    "retrieve": (
        {"messages": _DIALOGUE, "top_k": {**_COUNT, "default": 5}, "modality": {"enum": list(MODALITIES)},
         "where": {"type": "object"}, "coherent": {"type": "boolean"}, "hybrid": _HYBRID,
         "rerank": {"type": "boolean"}},
        ["messages"],
    ),
    "embeddings": (
        {"model": _TEXT, "input": {"oneOf": [_TEXT, {"type": "array", "items": _TEXT}]},
         "messages": {"type": "array", "items": _MESSAGE}, "input_type": {"enum": list(INPUT_TYPES)},
         "encoding_format": {"enum": list(FORMATS)}, "dimensions": _COUNT, "user": _TEXT},
        ["model"],
    ),
    "rerank": (
        {"model": _TEXT, "query": _DIALOGUE, "documents": {"type": "array", "items": _DOCUMENT}, "top_n": _COUNT,
         "return_documents": {"type": "boolean"}, "user": _TEXT},
        ["model", "query", "documents"],
    ),
}  # fmt: skip


def body_of(name: str) -> dict:
    """The body of a request, as FastAPI's `openapi_extra` takes it."""
    properties, required = _BODIES[name]
    schema = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
