"""The application: `POST /retrieve`, `GET /health`, `GET /metrics`."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import Any

from .answers import Answerer
from .batching import Batcher
from .limits import ServingLimits
from .metrics import Metrics
from .requests import Refused, read_request

try:
    from fastapi import FastAPI, Request
    from fastapi.responses import JSONResponse, Response
except ImportError as error:
    raise ImportError("A server needs FastAPI and uvicorn: `pip install unimur[serve]`.") from error


def make_app(
    retriever: Any, limits: ServingLimits | None = None, max_batch: int = 16, wait_seconds: float = 0.004
) -> FastAPI:
    """An application around a pipeline with a filled index.

    Args:
        retriever: a `multimodal-retrieval` pipeline, which only this application uses from now on.
        limits: of requests.
        max_batch, wait_seconds: of `Batcher`.
    """
    limits = limits or ServingLimits()

    @asynccontextmanager
    async def lifespan(app: FastAPI):
        app.state.batcher.start()
        yield
        await app.state.batcher.stop()

    app = FastAPI(title="unimur", lifespan=lifespan, docs_url=None, redoc_url=None)
    batcher = Batcher(Answerer(retriever, limits.tokens), max_batch, wait_seconds, limits.waiting)
    metrics = Metrics(batcher, lambda: len(retriever.index))
    app.state.batcher, app.state.metrics = batcher, metrics

    @app.post("/retrieve")
    async def retrieve(request: Request) -> Response:
        try:
            body = await _body(request, limits)
            start = time.perf_counter()
            # Pictures take a while to decode; others are read meanwhile.
            wanted = await asyncio.get_running_loop().run_in_executor(None, read_request, body, limits)
            left = limits.seconds - (time.perf_counter() - start)
            answer = await batcher.answer(wanted, max(left, 0.001))
            metrics.seconds.observe(time.perf_counter() - start)
            response = JSONResponse(answer)
        except Refused as error:
            headers = {"Retry-After": "1"} if error.status == 503 else None
            response = JSONResponse({"error": error.reason}, error.status, headers=headers)
        except Exception:
            response = JSONResponse({"error": "The request could not be answered; the server's log says why."}, 500)
        metrics.requests.labels(str(response.status_code)).inc()
        return response

    @app.get("/health")
    async def health() -> Response:
        if not batcher.is_running:
            return JSONResponse({"status": "stopped"}, 503)
        candidates = {kind: retriever.index.count(kind) for kind in ("text", "image")}
        return JSONResponse({"status": "ok", "candidates": candidates, "waiting": batcher.waiting})

    @app.get("/metrics")
    async def measured() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return app


async def _body(request: Request, limits: ServingLimits) -> bytes:
    """The whole upload, given up where it is too large or too slow."""
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > limits.upload_bytes:
        raise Refused(413, f"The upload is larger than {limits.upload_bytes} bytes.")

    async def read() -> bytes:
        parts, size = [], 0
        async for part in request.stream():
            parts.append(part)
            size += len(part)
            if size > limits.upload_bytes:
                raise Refused(413, f"The upload is larger than {limits.upload_bytes} bytes.")
        return b"".join(parts)

    try:
        return await asyncio.wait_for(read(), limits.upload_seconds)
    except asyncio.TimeoutError as error:
        raise Refused(408, f"The upload took longer than {limits.upload_seconds:g} seconds.") from error


__all__ = ["make_app"]
