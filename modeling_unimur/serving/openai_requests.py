"""Embedding and rerank requests in the formats of OpenAI, vLLM, Jina and Cohere clients."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..conversation import words_of_dialogue
from ..memory_index import Hit
from .limits import Refused, ServingLimits
from .requests import RetrievalRequest, at_place, one_of, read_messages, read_object, whole_number, yes_or_no

INPUT_TYPES = ("query", "document")
FORMATS = ("float", "base64")
EMBEDDING_FIELDS = ("model", "input", "messages", "input_type", "encoding_format", "dimensions", "user")
RERANK_FIELDS = ("model", "query", "documents", "top_n", "return_documents", "user")


@dataclass
class EmbeddingRequest:
    """A request to `POST /v1/embeddings`.

    Args:
        model: the name that the client gives.
        rows: one for each vector of the answer.
        encoding_format: `"float"`, lists of numbers, or `"base64"`, little-endian float32.
        dimensions: the number of dimensions to which vectors are cut and normalised; None for all of them.
    """

    model: str
    rows: list[RetrievalRequest]
    encoding_format: str = "float"
    dimensions: int | None = None

    def answer(self, vectors: list[torch.Tensor]) -> dict:
        """The answer by the vectors `(1, width)` of the rows. Raises Refused, 422, for more dimensions than there
        are."""
        matrix = torch.cat(vectors)
        if self.dimensions is not None:
            if self.dimensions > matrix.shape[1]:
                raise Refused(422, f"dimensions is {self.dimensions}; the model's vectors have {matrix.shape[1]}.")
            matrix = torch.nn.functional.normalize(matrix[:, : self.dimensions], dim=-1)
        data = [{"object": "embedding", "index": at, "embedding": self._written(row)} for at, row in enumerate(matrix)]
        return {"object": "list", "data": data, "model": self.model, "usage": usage(self.rows)}

    def _written(self, row: torch.Tensor) -> list[float] | str:
        if self.encoding_format == "float":
            return row.tolist()
        return base64.b64encode(row.numpy().astype(np.dtype("<f4")).tobytes()).decode("ascii")


@dataclass
class RerankRequest:
    """A request to `POST /v1/rerank`: a dialogue, candidates (texts or images) and the `given` documents as they came.
    The best `top_n` are returned, with their texts if `return_documents` says so."""

    model: str
    query: RetrievalRequest
    documents: list[RetrievalRequest]
    given: list
    top_n: int
    return_documents: bool = False

    @property
    def rows(self) -> list[RetrievalRequest]:
        """The query and the documents, which all need a vector."""
        return [self.query, *self.documents]

    def answer(self, vectors: list[torch.Tensor], reranker: Any = None) -> dict:
        """The answer by the vectors `(1, width)` of `rows`: documents by their cosine with the query; of equals the
        first one comes first. A second stage rescores all of them; those that it cannot read follow."""
        scores = (vectors[0] @ torch.cat(vectors[1:]).T)[0]
        order = torch.sort(scores, descending=True, stable=True).indices.tolist()
        hits = [self._hit(at, float(scores[at])) for at in order]
        if reranker is not None:
            [hits] = reranker.rerank([hits], [self.query.words], len(hits))
        results: list[dict] = []
        for at, score in ((int(hit.id), hit.score) for hit in hits[: self.top_n]):
            results.append({"index": at, "relevance_score": score})
            if self.return_documents:
                document = self.given[at]
                text = document if isinstance(document, str) else document.get("text")
                results[-1]["document"] = {} if text is None else {"text": text}
        return {"model": self.model, "results": results, "usage": usage(self.rows)}

    def _hit(self, at: int, score: float) -> Hit:
        """A document as a second stage reads it."""
        messages = self.documents[at].messages
        payload = {part["type"]: part[part["type"]] for message in messages for part in message["content"]}
        kind = "image" if "image" in payload else "text"
        return Hit(str(at), score, kind, {**payload, "caption": payload.get("text")})


def usage(rows: list[RetrievalRequest]) -> dict[str, int]:
    """Tokens of all texts; images are not counted."""
    tokens = sum(row.prompt_tokens or 0 for row in rows)
    return {"prompt_tokens": tokens, "total_tokens": tokens}


def read_embedding_request(body: bytes, limits: ServingLimits) -> EmbeddingRequest:
    """Reads OpenAI's `{"model", "input": text or [texts]}` or vLLM's `{"model", "messages": [...]}`, with
    `encoding_format`, `dimensions`, and `input_type`: `"query"`, the default, reads each input as a dialogue,
    `"document"` as a candidate.

    Raises:
        Refused: 422 for what is no such request or is too much.
    """
    request = read_object(body, limits, EMBEDDING_FIELDS)
    kind, encoding = one_of(request, "input_type", INPUT_TYPES), one_of(request, "encoding_format", FORMATS)
    dimensions = whole_number(request, "dimensions", None)
    if ("input" in request) == ("messages" in request):
        raise Refused(422, 'The body needs "input", a text or a list of texts, or "messages", and not both.')
    if "messages" in request:
        row = _document(request["messages"], limits) if kind == "document" else _query(request["messages"], limits)
        return EmbeddingRequest(_model(request), [row], encoding, dimensions)
    texts = [request["input"]] if isinstance(request["input"], str) else request["input"]
    _require_list(texts, "input", limits)
    rows = [at_place(f"input[{at}]", _row_of_text, text, limits, kind) for at, text in enumerate(texts)]
    return EmbeddingRequest(_model(request), rows, encoding, dimensions)


def read_rerank_request(body: bytes, limits: ServingLimits) -> RerankRequest:
    """Reads `{"model", "query", "documents": [...], "top_n", "return_documents"}`: the query is a text or a list of
    chat messages, a document is a text, `{"text": ...}` or `{"image": base64}`.

    Raises:
        Refused: 422 for what is no such request or is too much.
    """
    request = read_object(body, limits, RERANK_FIELDS)
    query, documents = request.get("query"), request.get("documents")
    query = _query([{"role": "user", "content": query}] if isinstance(query, str) else query, limits)
    _require_list(documents, "documents", limits)
    rows = [at_place(f"documents[{at}]", _row_of_document, one, limits) for at, one in enumerate(documents)]
    pixels = sum(image.pixels for row in [query, *rows] for image in row.images)
    if pixels > limits.request_pixels:
        raise Refused(422, f"The images have more than {limits.request_pixels} pixels together.")
    top_n, shown = whole_number(request, "top_n", len(rows)), yes_or_no(request, "return_documents", False)
    return RerankRequest(_model(request), query, rows, documents, top_n, shown)


def _model(request: dict) -> str:
    name = request.get("model")
    if not isinstance(name, str) or not name:
        raise Refused(422, '"model" must be the name of the model; GET /v1/models lists it.')
    return name


def _require_list(items: Any, name: str, limits: ServingLimits) -> None:
    if not isinstance(items, list) or not items:
        raise Refused(422, f'"{name}" must be a list with at least one item.')
    if len(items) > limits.inputs:
        raise Refused(422, f'"{name}" holds {len(items)} items; at most {limits.inputs} are read.')


def _query(messages: Any, limits: ServingLimits) -> RetrievalRequest:
    messages, reader = read_messages(messages, limits)
    words = words_of_dialogue(messages)
    return RetrievalRequest(messages, tokens=reader.tokens, images=reader.images, words=words, prompt_tokens=0)


def _document(messages: Any, limits: ServingLimits) -> RetrievalRequest:
    messages, reader = read_messages(messages, limits)
    if len(messages) != 1 or len(reader.images) > 1:
        raise Refused(422, "A document is one message with texts, or with one image and its caption.")
    return RetrievalRequest(
        messages, tokens=reader.tokens, images=reader.images, is_document=True, prompt_tokens=0
    )  # fmt: skip


def _row_of_text(text: Any, limits: ServingLimits, kind: str) -> RetrievalRequest:
    if not isinstance(text, str):
        raise Refused(422, "an input is a text; token ids are not read.")
    messages = [{"role": "user", "content": text}]
    return _document(messages, limits) if kind == "document" else _query(messages, limits)


def _row_of_document(document: Any, limits: ServingLimits) -> RetrievalRequest:
    if isinstance(document, str):
        return _row_of_text(document, limits, "document")
    if not isinstance(document, dict) or not document or set(document) - {"text", "image"}:
        raise Refused(422, 'a document is a text, or an object with "text", "image" in base64, or both.')
    parts = [{"type": kind, kind: document[kind]} for kind in ("image", "text") if document.get(kind) is not None]
    return _document([{"role": "user", "content": parts}], limits)
