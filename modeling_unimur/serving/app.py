"""The application: `POST /retrieve`, `GET /health`, `GET /metrics`."""

from __future__ import annotations

import asyncio
import json
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

from ..index.second_stage import RERANK_TOP_K
from .answers import Answerer
from .batching import Batcher
from .clients import client_host, client_key
from .limits import ServingLimits
from .memory import MemoryBudget, MemoryTrimmer
from .metrics import Metrics
from .public_names import PublicNames
from .refusal import Refused
from .requests import RetrievalRequest, read_request

try:
    from fastapi import FastAPI, Request
    from fastapi.responses import Response
    from starlette.requests import ClientDisconnect
except ImportError as error:
    raise ImportError("A server needs FastAPI and uvicorn: `pip install unimur[serve]`.") from error

# Threads that read requests and that decode images, which release Python's lock while they do.
_READERS, _DECODERS = 2, 2
# A condition on payloads may read every candidate: such requests are ranked apart from the others.
_COUNT_SECONDS = 1.0


def make_app(
    retriever: Any,
    limits: ServingLimits | None = None,
    max_batch: int = 16,
    wait_seconds: float = 0.004,
    names: PublicNames | None = None,
    shares_chats: bool = False,
    reranker: Any = None,
    rerank_top_k: int = RERANK_TOP_K,
) -> FastAPI:
    """An application around a pipeline with a filled index.

    Args:
        retriever: a `multimodal-retrieval` pipeline, which only this application uses from now on.
        limits: of requests.
        max_batch, wait_seconds: of `Batcher`.
        names: how hits are shown; by default without absolute paths.
        shares_chats: whether all clients are trusted to continue one another's chats; otherwise a client could tell
            by the time of an answer what another one has asked.
        reranker, rerank_top_k: of `Answerer`.
    """
    limits = limits or ServingLimits()
    answerer = Answerer(retriever, limits.tokens, names=names, reranker=reranker, rerank_top_k=rerank_top_k)
    server = _Server(answerer, limits, max_batch, wait_seconds, shares_chats)

    @asynccontextmanager
    async def lifespan(app: FastAPI):
        server.start()
        yield
        await server.stop()

    app = FastAPI(title="unimur", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.batcher, app.state.metrics = server.model, server.metrics

    @app.post("/retrieve")
    async def retrieve(request: Request) -> Response:
        try:
            response = _json(await server.retrieve(request))
        except Refused as error:
            response = _json({"error": error.reason}, error.status, error.headers)
        except Exception:
            response = _json({"error": "The request could not be answered; the server's log says why."}, 500)
        server.metrics.requests.labels(str(response.status_code)).inc()
        return response

    @app.get("/health")
    async def health() -> Response:
        if not server.is_running:
            return _json({"status": "stopped"}, 503)
        return _json({"status": "ok", "candidates": await server.count(), "waiting": server.model.waiting})

    @app.get("/metrics")
    async def measured() -> Response:
        await server.count()
        return Response(server.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return app


def _json(value: Any, status: int = 200, headers: dict | None = None) -> Response:
    # Payloads may hold halves of surrogate pairs, which UTF-8 cannot.
    return Response(json.dumps(value).encode(), status, headers, "application/json")


class _Server:
    """The stations of a request: its bytes, its images, its vector, its ranking."""

    def __init__(self, answerer: Answerer, limits, max_batch, wait_seconds, shares_chats):
        self.answerer, self.limits, self.shares_chats = answerer, limits, shares_chats
        processor = answerer.retriever.processor
        self.most_tokens = limits.tokens or getattr(processor, "max_context_tokens", limits.batch_tokens)
        waiting = {"max_waiting": limits.waiting, "max_client_waiting": limits.client_waiting}
        self.decoder = Batcher(_decode, 1, 0, threads=_DECODERS, name="decode", **waiting)
        self.model = Batcher(
            self.answerer.embed, max_batch, wait_seconds, max_cost=limits.batch_tokens, name="model", **waiting
        )
        self.ranker = Batcher(self.answerer.rank, max_batch, 0, name="rank", **waiting)
        self.filter = Batcher(self.answerer.rank, 1, 0, name="filter", **waiting)
        self.batchers = (self.decoder, self.model, self.ranker, self.filter)
        self.memory, self.trimmer = MemoryBudget(limits.memory_bytes), MemoryTrimmer()
        self.readers = ThreadPoolExecutor(_READERS, thread_name_prefix="read")
        skipped = getattr(answerer.reranker, "skipped", {})
        self.metrics = Metrics(self.model, lambda: sum(self._candidates.values()), lambda: sum(skipped.values()))
        self._candidates: dict[str, int] = {}
        self._counted = float("-inf")

    def start(self) -> None:
        for batcher in self.batchers:
            batcher.start()

    async def stop(self) -> None:
        for batcher in self.batchers:
            await batcher.stop()
        self.readers.shutdown()

    @property
    def is_running(self) -> bool:
        return all(batcher.is_running for batcher in self.batchers)

    async def count(self) -> dict[str, int]:
        """Candidates by kind, a second old at most: a database is asked for them."""
        if time.monotonic() - self._counted >= _COUNT_SECONDS:
            self._counted = time.monotonic()
            loop = asyncio.get_running_loop()
            self._candidates = await loop.run_in_executor(self.readers, self.answerer.count)
        return self._candidates

    async def retrieve(self, request: Request) -> dict:
        """The answer to a request, given up when its client has gone."""
        client = client_host(request.client)
        held = _Held(self.memory, client)
        try:
            body = await self._body(request, held)
            key = "" if self.shares_chats else client_key(request.client, request.headers)
            answering = asyncio.ensure_future(self._answer(body, client, key, held))
            leaving = asyncio.ensure_future(_left(request))
            try:
                await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
                if not answering.done():
                    raise Refused(499, "The client has closed the connection.")
                return answering.result()
            finally:
                for task in (answering, leaving):
                    task.cancel()
                await asyncio.gather(answering, leaving, return_exceptions=True)
        except ClientDisconnect as error:
            raise Refused(499, "The client has closed the connection.") from error
        finally:
            held.give()
            if held.pixels:
                asyncio.get_running_loop().run_in_executor(self.readers, self.trimmer.freed, 3 * held.pixels)

    async def _answer(self, body: bytearray, client: str, key: str | None, held: _Held) -> dict:
        start, limits = time.perf_counter(), self.limits
        wanted = await asyncio.get_running_loop().run_in_executor(self.readers, read_request, body, limits)
        body.clear()
        wanted.client = key

        def left() -> float:
            return max(limits.seconds - (time.perf_counter() - start), 0.001)

        if wanted.images:
            held.take(3 * sum(image.kept_pixels for image in wanted.images))
            held.pixels = sum(image.pixels for image in wanted.images)
            await self.decoder.answer(wanted, left(), client, held.pixels)
        vector = await self.model.answer(wanted, left(), client, wanted.cost(self.most_tokens))
        wanted.messages = []
        ranker = self.filter if wanted.where else self.ranker
        answer = await ranker.answer((vector, wanted), left(), client)
        self.metrics.seconds.observe(time.perf_counter() - start)
        return answer

    async def _body(self, request: Request, held: _Held) -> bytearray:
        """The whole upload, given up where it is too large or too slow."""
        limits = self.limits
        too_large = Refused(413, f"The upload is larger than {limits.upload_bytes} bytes.")
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length[:20]) > limits.upload_bytes:
            raise too_large
        body = bytearray()

        async def read() -> None:
            async for part in request.stream():
                if len(body) + len(part) > limits.upload_bytes:
                    raise too_large
                held.take(len(part))
                body.extend(part)

        try:
            await asyncio.wait_for(read(), limits.upload_seconds)
        except asyncio.TimeoutError as error:
            raise Refused(408, f"The upload took longer than {limits.upload_seconds:g} seconds.") from error
        return body


class _Held:
    """What one request takes of the memory for requests."""

    def __init__(self, memory: MemoryBudget, client: str):
        self.memory, self.client = memory, client
        self.count = self.pixels = 0

    def take(self, count: int) -> None:
        self.memory.take(self.client, count)
        self.count += count

    def give(self) -> None:
        if self.count:
            self.memory.give(self.client, self.count)


def _decode(requests: list[RetrievalRequest]) -> list:
    answers: list = []
    for request in requests:
        try:
            answers.append(request.decode())
        except Refused as error:
            answers.append(error)
    return answers


async def _left(request: Request) -> None:
    """Returns when the client has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


__all__ = ["make_app"]
