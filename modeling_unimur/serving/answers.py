"""Requests through the pipeline, several at a time."""

from __future__ import annotations

import logging
import time
from typing import Any

import torch

from .requests import Refused, RetrievalRequest

logger = logging.getLogger(__name__)


class Answerer:
    """Answers requests with a filled pipeline.

    First messages run together; a chat that goes on runs from where its last turn left it (`ChatCache`).

    Args:
        retriever: a `multimodal-retrieval` pipeline.
        max_tokens: of a context; None for the processor's own bound.
        refresh_seconds: how often to look for a newer version of an index in a folder.
    """

    def __init__(self, retriever: Any, max_tokens: int | None = None, refresh_seconds: float = 5.0):
        self.retriever, self.max_tokens, self.refresh_seconds = retriever, max_tokens, refresh_seconds
        self._looked = time.monotonic()

    def __call__(self, requests: list[RetrievalRequest]) -> list[dict | Exception]:
        """An answer `{"text": [...], "image": [...]}` or `{"joint": [...]}` to each request, or why there is none."""
        self._refresh()
        chats = self.retriever.chats
        apart = [number for number, request in enumerate(requests) if chats.takes(request.messages)]
        together = [number for number in range(len(requests)) if number not in set(apart)]
        vectors: dict[int, torch.Tensor | Exception] = {}
        for number in apart:
            vectors[number] = self._tried(lambda at=number: chats.embed(requests[at].messages, self.max_tokens))
        if together:
            found = self._tried(lambda: self._embed([requests[number] for number in together]))
            if isinstance(found, Exception) and len(together) > 1:  # one of them; the others are answered all the same
                for number in together:
                    vectors[number] = self._tried(lambda at=number: self._embed([requests[at]]))
            elif isinstance(found, Exception):
                vectors[together[0]] = found
            else:
                vectors.update({number: row[None] for number, row in zip(together, found, strict=True)})
        return [
            vectors[number]
            if isinstance(vectors[number], Exception)
            else self._tried(lambda at=number: self._ranked(vectors[at], requests[at]))
            for number in range(len(requests))
        ]

    def _refresh(self) -> None:
        if time.monotonic() - self._looked >= self.refresh_seconds and hasattr(self.retriever.index, "refresh"):
            self._looked = time.monotonic()
            try:
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

    def _embed(self, requests: list[RetrievalRequest]) -> torch.Tensor:
        retriever = self.retriever
        inputs = retriever.processor.process_context(
            [request.messages for request in requests], max_length=self.max_tokens
        )
        inputs = {key: value.to(retriever.model.device) for key, value in inputs.items()}
        with torch.inference_mode():
            return retriever.model.get_multimodal_features(**inputs).pooler_output

    def _ranked(self, vector: torch.Tensor, request: RetrievalRequest) -> dict:
        options = {"top_k": request.top_k, "modality": request.modality, "where": request.where}
        found = self.retriever.postprocess({"embeds": vector}, **options)[0]
        return found if isinstance(found, dict) else {"joint": found}


__all__ = ["Answerer"]
