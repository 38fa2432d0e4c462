"""The application: `POST /retrieve`, `/v1/embeddings` and `/v1/rerank`; `GET /v1/models`, `/health`, `/metrics` and
`/docs`."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

from .. import __version__
from ..index.second_stage import RERANK_TOP_K
from .answers import Answerer
from .batching import Batcher
from .clients import CLIENT_HEADERS, client_host, client_key, has_api_key
from .limits import MemoryBudget, MemoryTrimmer, Refused, ServingLimits
from .openai_requests import EmbeddingRequest, RerankRequest, read_embedding_request, read_rerank_request
from .openapi import body_of
from .public_names import PublicNames
from .requests import RetrievalRequest, read_request

try:
    from fastapi import FastAPI, Request
    from fastapi.responses import Response
    from starlette.requests import ClientDisconnect

    from .metrics import Metrics
except ImportError as error:
    raise ImportError("A server needs FastAPI, uvicorn and prometheus-client: `pip install unimur[serve]`.") from error

# Threads that read requests and that decode images, which release Python's lock while they do.
_READERS, _DECODERS = 2, 2
# A condition on payloads may read every candidate: such requests are ranked apart from the others.
_COUNT_SECONDS = 1.0
# Vectors of one request that wait at the same time, so that it leaves room in the queue for others.
_VECTORS_AT_ONCE = 64


def make_app(
    retriever: Any,
    limits: ServingLimits | None = None,
    max_batch: int = 16,
    names: PublicNames | None = None,
    shares_chats: bool = False,
    api_key: str | None = None,
    model_name: str = "unimur",
    reranker: Any = None,
    rerank_top_k: int = RERANK_TOP_K,
) -> FastAPI:
    """An application around a pipeline with a filled index.

    Args:
        retriever: a `multimodal-retrieval` pipeline, which only this application uses from now on.
        limits: the limits of requests.
        max_batch: the most requests that the model answers together.
        names: how hits are shown; by default without absolute paths.
        shares_chats: whether all clients are trusted to continue one another's chats; otherwise a client could tell
            by the time of an answer what another one has asked.
        api_key: all requests but those for `/health` must show it, as `Authorization: Bearer KEY`.
        model_name: the name of the model in requests below `/v1`.
        reranker, rerank_top_k: arguments of `Answerer`.
    """
    limits = limits or ServingLimits()
    answerer = Answerer(retriever, limits.tokens, names=names, reranker=reranker, rerank_top_k=rerank_top_k)
    server = _Server(answerer, limits, max_batch, shares_chats, api_key, model_name)

    @asynccontextmanager
    async def lifespan(app: FastAPI):
        server.start()
        yield
        await server.stop()

    app = FastAPI(title="unimur", version=__version__, lifespan=lifespan, redoc_url=None)
    app.state.batcher, app.state.metrics = server.model, server.metrics

    async def respond(work: Awaitable[dict], told: Callable[[str, int], Any]) -> Response:
        try:
            response = _json(await work)
        except Refused as error:
            response = _json({"error": told(error.reason, error.status)}, error.status, error.headers)
        except Exception:
            reason = "The request could not be answered; the server's log says why."
            response = _json({"error": told(reason, 500)}, 500)
        server.metrics.requests.labels(str(response.status_code)).inc()
        return response

    @app.post("/retrieve", openapi_extra=body_of("retrieve"))
    async def retrieve(request: Request) -> Response:
        """Texts and images of the index that answer a dialogue."""
        return await respond(server.answer(request, server.retrieve), lambda reason, status: reason)

    @app.post("/v1/embeddings", openapi_extra=body_of("embeddings"))
    async def embeddings(request: Request) -> Response:
        """The vectors of dialogues, or of candidates, as OpenAI's clients and vLLM's ask for them."""
        return await respond(server.answer(request, server.embed), _openai_error)

    @app.post("/v1/rerank", openapi_extra=body_of("rerank"))
    async def rerank(request: Request) -> Response:
        """Documents in the order in which they answer a query, as clients of Jina, Cohere and vLLM ask for it."""
        return await respond(server.answer(request, server.rerank), _openai_error)

    @app.get("/v1/models")
    async def models(request: Request) -> Response:
        """The name of the model."""
        server.authorize(request)
        return _json({"object": "list", "data": [{"id": model_name, "object": "model", "owned_by": "unimur"}]})

    @app.get("/health")
    async def health() -> Response:
        """Whether requests are answered."""
        if not server.is_running:
            return _json({"status": "stopped"}, 503)
        return _json({"status": "ok", "candidates": await server.count(), "waiting": server.model.waiting})

    @app.get("/metrics")
    async def measured(request: Request) -> Response:
        """Counters and times, for Prometheus."""
        server.authorize(request)
        await server.count()
        return Response(server.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> Response:
        return _json({"error": error.reason}, error.status, error.headers)

    return app


def _openai_error(reason: str, status: int) -> dict:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return {"message": reason, "type": kind, "param": None, "code": status}


def _json(value: Any, status: int = 200, headers: dict | None = None) -> Response:
    # Payloads may hold halves of surrogate pairs, which UTF-8 cannot.
    return Response(json.dumps(value).encode(), status, headers, "application/json")


class _Server:
    """Runs requests through their stages: upload, image decoding, encoding, ranking."""

    def __init__(self, answerer: Answerer, limits, max_batch, shares_chats, api_key, model_name):
        self.answerer, self.limits, self.shares_chats = answerer, limits, shares_chats
        self.api_key, self.model_name = api_key, model_name
        # One API key for all clients does not say whose a chat is.
        self.client_headers = CLIENT_HEADERS if api_key is None else CLIENT_HEADERS[:1]
        processor = answerer.retriever.processor
        self.most_tokens = limits.tokens or getattr(processor, "max_context_tokens", limits.batch_tokens)
        waiting = {"max_waiting": limits.waiting, "max_client_waiting": limits.client_waiting}
        self.decoder = Batcher(_decode, 1, 0, threads=_DECODERS, name="decode", **waiting)
        self.model = Batcher(self.answerer.embed, max_batch, max_cost=limits.batch_tokens, name="model", **waiting)
        self.ranker = Batcher(self.answerer.rank, max_batch, 0, name="rank", **waiting)
        self.filter = Batcher(self.answerer.rank, 1, 0, name="filter", **waiting)
        self.reranker = Batcher(self.answerer.rerank, 1, 0, name="rerank", **waiting)
        self.batchers = (self.decoder, self.model, self.ranker, self.filter, self.reranker)
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
        """The number of candidates by kind, cached for a second because it may need a database query."""
        if time.monotonic() - self._counted >= _COUNT_SECONDS:
            self._counted = time.monotonic()
            loop = asyncio.get_running_loop()
            self._candidates = await loop.run_in_executor(self.readers, self.answerer.count)
        return self._candidates

    def authorize(self, request: Request) -> None:
        """Refuses a request without the API key, if there is one."""
        if not has_api_key(request.headers, self.api_key):
            raise Refused(401, "The API key is missing or wrong: send `Authorization: Bearer KEY`.")

    async def answer(self, request: Request, work: Callable[[bytearray, _Client], Awaitable[dict]]) -> dict:
        """Answers a request; cancels the work when the client disconnects."""
        self.authorize(request)
        host = client_host(request.client)
        key = "" if self.shares_chats else client_key(request.client, request.headers, self.client_headers)
        client = _Client(host, key, self.memory, self.limits.seconds)
        try:
            body = await self._body(request, client)
            client.start = time.perf_counter()
            answering = asyncio.ensure_future(work(body, client))
            leaving = asyncio.ensure_future(_left(request))
            try:
                await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
                if not answering.done():
                    raise Refused(499, "The client has closed the connection.")
                answer = answering.result()
                self.metrics.seconds.observe(client.seconds)
                return answer
            finally:
                for task in (answering, leaving):
                    task.cancel()
                await asyncio.gather(answering, leaving, return_exceptions=True)
        except ClientDisconnect as error:
            raise Refused(499, "The client has closed the connection.") from error
        finally:
            client.give(client.held)
            if client.pixels:
                asyncio.get_running_loop().run_in_executor(self.readers, self.trimmer.freed, 3 * client.pixels)

    async def retrieve(self, body: bytearray, client: _Client) -> dict:
        """Ranked candidates for a dialogue."""
        wanted = await self._read(read_request, body)
        wanted.client = client.key
        [vector] = await self._vectors([wanted], client)
        ranker = self.filter if wanted.where else self.ranker
        return await ranker.answer((vector, wanted), client.seconds_left, client.host)

    async def embed(self, body: bytearray, client: _Client) -> dict:
        """Vectors of dialogues or candidates."""
        wanted = await self._read(read_embedding_request, body)
        return wanted.answer(await self._vectors_for(wanted, client))

    async def rerank(self, body: bytearray, client: _Client) -> dict:
        """Documents, ranked for a query."""
        wanted = await self._read(read_rerank_request, body)
        for row in wanted.documents:
            row.is_read_again = self.answerer.reranker is not None
        vectors = await self._vectors_for(wanted, client)
        return await self.reranker.answer((wanted, vectors), client.seconds_left, client.host)

    async def _vectors_for(self, wanted: EmbeddingRequest | RerankRequest, client: _Client) -> list:
        if wanted.model != self.model_name:
            raise Refused(404, f"There is no model {wanted.model!r:.80} here; this server has {self.model_name!r}.")
        return await self._vectors(wanted.rows, client)

    async def _read(self, read: Callable, body: bytearray) -> Any:
        wanted = await asyncio.get_running_loop().run_in_executor(self.readers, read, body, self.limits)
        body.clear()
        return wanted

    async def _vectors(self, rows: list[RetrievalRequest], client: _Client) -> list:
        """The vector of each row; the rows of a long request are queued in parts."""
        found: list = []
        for first in range(0, len(rows), _VECTORS_AT_ONCE):
            some = [asyncio.ensure_future(self._vector(row, client)) for row in rows[first : first + _VECTORS_AT_ONCE]]
            try:
                found += await asyncio.gather(*some)
            finally:
                for task in some:
                    task.cancel()
        return found

    async def _vector(self, row: RetrievalRequest, client: _Client) -> Any:
        kept = 3 * sum(image.kept_pixels for image in row.images)
        if row.images:
            client.take(kept)
            pixels = sum(image.pixels for image in row.images)
            client.pixels += pixels
            await self.decoder.answer(row, client.seconds_left, client.host, pixels)
        vector = await self.model.answer(row, client.seconds_left, client.host, row.cost(self.most_tokens))
        if not row.is_read_again:
            row.messages, row.images = [], []
            client.give(kept)
        return vector

    async def _body(self, request: Request, client: _Client) -> bytearray:
        """Reads the upload; refuses it if it is too large or too slow."""
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
                client.take(len(part))
                body.extend(part)

        try:
            await asyncio.wait_for(read(), limits.upload_seconds)
        except asyncio.TimeoutError as error:
            raise Refused(408, f"The upload took longer than {limits.upload_seconds:g} seconds.") from error
        return body


class _Client:
    """A client that waits for an answer, and what its request holds of the memory.

    Args:
        host: the address by which its turns and its limits are counted.
        key: the key of its kept chats.
        memory: the memory that all requests share.
        limit: the seconds until the request is given up.
    """

    def __init__(self, host: str, key: str | None, memory: MemoryBudget, limit: float):
        self.host, self.key, self.memory, self.limit = host, key, memory, limit
        self.start, self.held, self.pixels = time.perf_counter(), 0, 0

    @property
    def seconds(self) -> float:
        """Seconds since the end of the upload."""
        return time.perf_counter() - self.start

    @property
    def seconds_left(self) -> float:
        """Seconds until the request times out."""
        return max(self.limit - self.seconds, 0.001)

    def take(self, count: int) -> None:
        self.memory.take(self.host, count)
        self.held += count

    def give(self, count: int) -> None:
        if count:
            self.memory.give(self.host, count)
            self.held -= count


def _decode(requests: list[RetrievalRequest]) -> list:
    return [request.decode() for request in requests]


async def _left(request: Request) -> None:
    """Returns when the client has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
