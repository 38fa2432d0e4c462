"""Requests through the pipeline, several at a time: contexts by the model, rankings by the index."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from .public_names import PublicNames
from .refusal import Refused
from .requests import RetrievalRequest

logger = logging.getLogger(__name__)
# Seconds after which a newer version of the index does not wait for a pause between searches.
_PATIENCE = 30.0


class Answerer:
    """Answers requests with a filled pipeline.

    First messages run together; a chat that goes on runs from where its last turn left it (`ChatCache`), if its client
    says who it is.

    Args:
        retriever: a `multimodal-retrieval` pipeline.
        max_tokens: of a context; None for the processor's own bound.
        refresh_seconds: how often to look for a newer version of an index in a folder.
        names: how hits are shown.
    """

    def __init__(
        self,
        retriever: Any,
        max_tokens: int | None = None,
        refresh_seconds: float = 5.0,
        names: PublicNames | None = None,
    ):
        self.retriever, self.max_tokens, self.refresh_seconds = retriever, max_tokens, refresh_seconds
        self.names = names or PublicNames()
        self._looked = time.monotonic()
        self._state, self._searches = threading.Condition(), 0

    def __call__(self, requests: list[RetrievalRequest]) -> list[dict | Exception]:
        """An answer `{"text": [...], "image": [...]}` or `{"joint": [...]}` to each request, or why there is none."""
        vectors = self.embed(requests)
        good = [number for number, vector in enumerate(vectors) if not isinstance(vector, Exception)]
        answers: list = list(vectors)
        for number, answer in zip(good, self.rank([(vectors[at], requests[at]) for at in good]), strict=True):
            answers[number] = answer
        return answers

    def embed(self, requests: list[RetrievalRequest]) -> list[torch.Tensor | Exception]:
        """The vector of each request, `(1, width)`, or why there is none."""
        chats = self.retriever.chats
        apart = [
            number
            for number, request in enumerate(requests)
            if request.client is not None and chats.takes(request.messages)
        ]
        together = [number for number in range(len(requests)) if number not in set(apart)]
        vectors: dict[int, torch.Tensor | Exception] = {}
        for number in apart:
            vectors[number] = self._tried(lambda at=number: self._continue(requests[at]))
        if together:
            found = self._tried(lambda: self._embed([requests[number] for number in together]))
            if isinstance(found, Exception) and len(together) > 1:  # one of them; the others are answered all the same
                for number in together:
                    vectors[number] = self._tried(lambda at=number: self._embed([requests[at]]))
            elif isinstance(found, Exception):
                vectors[together[0]] = found
            else:
                vectors.update({number: row[None] for number, row in zip(together, found, strict=True)})
        return [vectors[number] for number in range(len(requests))]

    def rank(self, wanted: list[tuple[torch.Tensor, RetrievalRequest]]) -> list[dict | Exception]:
        """The answer to each request by its vector, or why there is none. Requests that are ranked alike are ranked
        in one search."""
        alike: dict[tuple, list[int]] = {}
        for number, (_, request) in enumerate(wanted):
            alike.setdefault(request.order, []).append(number)
        answers: dict[int, dict | Exception] = {}
        with self._current_index():
            for numbers in alike.values():
                found = self._tried(
                    lambda at=numbers: self._ranked(torch.cat([wanted[n][0] for n in at]), wanted[at[0]][1])
                )
                rows = [found] * len(numbers) if isinstance(found, Exception) else found
                answers.update(zip(numbers, rows, strict=True))
        return [answers[number] for number in range(len(wanted))]

    def count(self) -> dict[str, int]:
        """Candidates by kind."""
        return {kind: self.retriever.index.count(kind) for kind in ("text", "image")}

    @contextmanager
    def _current_index(self) -> Iterator[None]:
        """Looks for a newer version of the index, which is taken over while nobody searches."""
        with self._state:
            late = time.monotonic() - self._looked - self.refresh_seconds
            if late >= 0 and (not self._searches or late > _PATIENCE):
                while self._searches:
                    self._state.wait()
                self._refresh()
            self._searches += 1
        try:
            yield
        finally:
            with self._state:
                self._searches -= 1
                self._state.notify_all()

    def _refresh(self) -> None:
        self._looked = time.monotonic()
        try:
            if hasattr(self.retriever.index, "refresh"):
                self.retriever.index.refresh()
        except (OSError, ValueError):
            logger.exception("The index' newer version cannot be read; answers come from the one before.")

    def _tried(self, work) -> Any:
        try:
            return work()
        except (ValueError, FileNotFoundError) as error:
            return Refused(422, str(error))
        except Exception as error:
            logger.exception("A request could not be answered.")
            return error

    def _continue(self, request: RetrievalRequest) -> torch.Tensor:
        return self.retriever.chats.embed(request.messages, self.max_tokens, owner=request.client)

    def _embed(self, requests: list[RetrievalRequest]) -> torch.Tensor:
        retriever = self.retriever
        inputs = retriever.processor.process_context(
            [request.messages for request in requests], max_length=self.max_tokens
        )
        inputs = {key: value.to(retriever.model.device) for key, value in inputs.items()}
        with torch.inference_mode():
            return retriever.model.get_multimodal_features(**inputs).pooler_output

    def _ranked(self, vectors: torch.Tensor, request: RetrievalRequest) -> list[dict]:
        options = {"top_k": request.top_k, "modality": request.modality, "where": request.where}
        rows = self.retriever.postprocess({"embeds": vectors}, **options)
        found = [row if isinstance(row, dict) else {"joint": row} for row in rows]
        return [{kind: [self.names.hit(hit) for hit in hits] for kind, hits in row.items()} for row in found]


__all__ = ["Answerer"]
