"""Runs batches of requests through the pipeline: the model encodes contexts, the index ranks candidates."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import torch

from ..conversation import words_of_dialogue
from ..index.second_stage import RERANK_TOP_K, open_reranker
from ..memory_index import KINDS
from ..modeling_open_clip import fuses_captions, image_inputs, image_vectors, text_vectors
from .limits import Refused
from .openai_requests import RerankRequest
from .public_names import PublicNames
from .requests import RetrievalRequest

logger = logging.getLogger(__name__)


class Answerer:
    """Answers requests with a filled pipeline.

    First messages run together; a chat that goes on runs from where its last turn left it (`ChatCache`), if its client
    says who it is.

    Args:
        max_tokens: the length of a context in tokens; None for the processor's own limit.
        refresh_seconds: how often to look for a newer version of an index in a folder.
        names: how hits are shown.
        reranker: a second stage, as the pipeline takes it, for all requests that do not refuse it; coherent replies
            and pairs have none.
        rerank_top_k: how many hits of each ranking it rescores; of a request for ranked documents, all.
    """

    def __init__(
        self,
        retriever: Any,
        max_tokens: int | None = None,
        refresh_seconds: float = 5.0,
        names: PublicNames | None = None,
        reranker: Any = None,
        rerank_top_k: int = RERANK_TOP_K,
    ):
        self.reranker = None if reranker is None else open_reranker(reranker)
        self.rerank_top_k = rerank_top_k
        self.retriever, self.max_tokens, self.refresh_seconds = retriever, max_tokens, refresh_seconds
        self.names = names or PublicNames()
        self._looked = time.monotonic()

    def embed(self, requests: list[RetrievalRequest]) -> list[torch.Tensor | Exception]:
        """The vector `(1, width)` of each request, or the exception that prevented it."""
        if counted := [request for request in requests if request.prompt_tokens is not None]:
            texts = [words_of_dialogue(request.messages) for request in counted]
            read = self.retriever.processor.tokenizer(texts, add_special_tokens=False)["input_ids"]
            for request, ids in zip(counted, read, strict=True):
                request.prompt_tokens = len(ids)
        found: list = [None] * len(requests)
        kinds: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            kinds.setdefault(_kind(request), []).append(number)
        for kind, numbers in kinds.items():
            rows = self._embedded(kind, [requests[number] for number in numbers])
            for number, row in zip(numbers, rows, strict=True):
                found[number] = row
        return found

    def _embedded(self, kind: str, requests: list[RetrievalRequest]) -> list[torch.Tensor | Exception]:
        """Vectors of requests of one kind; where the model fails, each alone, since one of them may be the cause."""
        found = self._tried((self._dialogues if kind == "dialogue" else self._documents), requests)
        if isinstance(found, Exception):
            return [found] if len(requests) == 1 else [self._embedded(kind, [request])[0] for request in requests]
        return [self._refused(row) if isinstance(row, Exception) else row[None] for row in found]

    def _dialogues(self, requests: list[RetrievalRequest]) -> list[torch.Tensor | Exception]:
        return self.retriever.embed(
            [request.messages for request in requests],
            batch_size=len(requests),
            max_length=self.max_tokens,
            on_error="skip",
            owners=[request.client for request in requests],
        )

    def _documents(self, requests: list[RetrievalRequest]) -> torch.Tensor:
        """Vectors of candidates, which are all texts or all images."""
        model, processor = self.retriever.model, self.retriever.processor
        texts = [_text(request) for request in requests]
        if not requests[0].images:
            return text_vectors(model, processor.process_texts(texts))
        parts = [part for request in requests for part in request.messages[0]["content"]]
        images = [part["image"] for part in parts if part["type"] == "image"]
        if any(texts) and not fuses_captions(processor):
            raise ValueError("This model has no vector for an image with a text: send the one or the other.")
        return image_vectors(model, image_inputs(processor, images, [{"caption": text or None} for text in texts]))

    def rank(self, wanted: list[tuple[torch.Tensor, RetrievalRequest]]) -> list[dict | Exception]:
        """The answer to each request by its vector, `{"text": [...], "image": [...]}`, `{"joint": [...]}` or
        `{"pair": [{"score", "text", "image"}]}`, or why there is none. Requests that are ranked alike are ranked in
        one search."""
        alike: dict[tuple, list[int]] = {}
        for number, (_, request) in enumerate(wanted):
            alike.setdefault(request.order, []).append(number)
        answers: dict[int, dict | Exception] = {}
        self._refresh()
        for numbers in alike.values():
            found = self._tried(self._ranked, [wanted[number] for number in numbers])
            rows = [found] * len(numbers) if isinstance(found, Exception) else found
            answers.update(zip(numbers, rows, strict=True))
        return [answers[number] for number in range(len(wanted))]

    def rerank(self, wanted: list[tuple[RerankRequest, list[torch.Tensor]]]) -> list[dict | Exception]:
        """The answer to each request for ranked documents by the vectors of its rows, or why there is none."""
        return [self._tried(request.answer, vectors, self.reranker) for request, vectors in wanted]

    def count(self) -> dict[str, int]:
        """The number of candidates of each kind."""
        return {kind: self.retriever.index.count(kind) for kind in KINDS}

    def _refresh(self) -> None:
        """Looks for a newer version of the index, once in `refresh_seconds`. It takes the place of the older one
        between two searches."""
        if time.monotonic() - self._looked < self.refresh_seconds:
            return
        self._looked = time.monotonic()
        try:
            self.retriever.index.refresh()
        except (OSError, ValueError):
            logger.exception("The index' newer version cannot be read; answers come from the one before.")

    def _tried(self, work: Callable, *arguments: Any) -> Any:
        try:
            return work(*arguments)
        except Exception as error:
            return self._refused(error)

    @staticmethod
    def _refused(error: Exception) -> Exception:
        """The error that the client sees: its message if the request caused it."""
        if isinstance(error, (ValueError, FileNotFoundError)):
            return Refused(422, str(error))
        logger.error("A request could not be answered.", exc_info=error)
        return error

    def _ranked(self, wanted: list[tuple[torch.Tensor, RetrievalRequest]]) -> list[dict]:
        vectors, alike = zip(*wanted, strict=True)
        request, options = alike[0], {}
        for name in ("top_k", "modality", "where", "coherent"):
            options[name] = getattr(request, name)
        if request.hybrid is not None:
            index = self.retriever.index
            if getattr(index, "home", None) is not None and not getattr(index, "keeps_words", False):
                # Clients do not read where it lies.
                raise ValueError("This server's index keeps no words: `unimur index update ... --bm25` adds them.")
            options["hybrid"] = request.hybrid
        if request.rerank and self.reranker is None:
            raise ValueError("This server has no second stage: leave rerank out.")
        plain = request.coherent or request.modality == "pair"
        if self.reranker is not None and (request.rerank or (request.rerank is None and not plain)):
            options |= {"reranker": self.reranker, "rerank_top_k": self.rerank_top_k}
        if options.keys() & {"hybrid", "reranker"}:
            options["words"] = [one.words for one in alike]
        rows = self.retriever.rank(torch.cat(vectors), **options)
        found = [row if isinstance(row, dict) else {request.modality: row} for row in rows]
        return [{kind: [self._shown(hit, kind) for hit in hits] for kind, hits in row.items()} for row in found]

    def _shown(self, hit: dict, kind: str) -> dict:
        if kind != "pair":
            return self.names.hit(hit)
        return {"score": hit["score"], **{one: self.names.hit(hit[one]) for one in KINDS}}


def _kind(request: RetrievalRequest) -> str:
    if not request.is_document:
        return "dialogue"
    return "image" if request.images else "text"


def _text(document: RetrievalRequest) -> str:
    """The text of a candidate, unchanged."""
    parts = document.messages[0]["content"]
    return "\n".join(part["text"] for part in parts if part["type"] == "text")
