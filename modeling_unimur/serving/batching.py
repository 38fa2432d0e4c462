"""Requests that arrive together are answered together, on the one thread that runs the model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from .requests import Refused


class Batcher:
    """Collects requests for a model.

    Args:
        work: takes a list of requests, returns for each an answer or an exception; runs on a thread of its own.
        max_batch: requests that are answered together.
        wait_seconds: how long the first of them waits for others, if the model is idle. While it is busy, requests
            gather by themselves.
        max_waiting: further ones are refused.
    """

    def __init__(
        self, work: Callable[[list], list], max_batch: int = 16, wait_seconds: float = 0.004, max_waiting: int = 512
    ):
        self.work, self.max_batch, self.wait_seconds, self.max_waiting = work, max_batch, wait_seconds, max_waiting
        self.batches = self.answered = 0
        self._waiting: list[tuple[object, asyncio.Future]] = []
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._task: asyncio.Task | None = None

    @property
    def waiting(self) -> int:
        """Requests that the model has not begun."""
        return len(self._waiting)

    def start(self) -> None:
        """Begins, on the loop that runs."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    @property
    def is_running(self) -> bool:
        """Whether requests are answered."""
        return self._task is not None and not self._task.done()

    async def answer(self, request: object, seconds: float) -> object:
        """The answer to a request.

        Raises:
            Refused: 503 when too many wait, 504 when it took longer than `seconds`.
        """
        if len(self._waiting) >= self.max_waiting:
            raise Refused(503, "Too many requests are waiting: come back later.")
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((request, future))
        self._arrived.set()
        try:
            return await asyncio.wait_for(future, seconds)
        except asyncio.TimeoutError as error:
            raise Refused(504, f"No answer within {seconds:g} seconds.") from error

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._arrived.wait()
            if len(self._waiting) < self.max_batch:
                await asyncio.sleep(self.wait_seconds)
            batch, self._waiting = self._waiting[: self.max_batch], self._waiting[self.max_batch :]
            if not self._waiting:
                self._arrived.clear()
            batch = [(request, future) for request, future in batch if not future.done()]  # nobody waits for others
            if not batch:
                continue
            try:
                answers = await loop.run_in_executor(self._thread, self.work, [request for request, _ in batch])
            except Exception as error:
                answers = [error] * len(batch)
            self.batches += 1
            self.answered += len(batch)
            for (_, future), answer in zip(batch, answers, strict=True):
                if future.done():
                    continue
                if isinstance(answer, Exception):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)

    async def stop(self) -> None:
        """Ends when the batch that runs has ended; what still waits is refused."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for _, future in self._waiting:
            if not future.done():
                future.set_exception(Refused(503, "The server is stopping."))
        self._waiting = []
        self._thread.shutdown(wait=True)


__all__ = ["Batcher"]
