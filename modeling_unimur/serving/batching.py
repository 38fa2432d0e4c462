"""Answers requests that arrive together in one batch, on a thread pool; clients take turns."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from .limits import Refused

# Weight of the latest batch in the measured speed.
_LATEST = 0.3


@dataclass(eq=False)
class Waiting:
    """A waiting request. `cost` is the cost of its answer, in any unit."""

    request: Any
    client: str
    cost: float
    future: asyncio.Future


class FairQueue:
    """A fair queue: the client whose requests have cost least is served next, in order of arrival."""

    def __init__(self) -> None:
        self._lines: dict[str, deque[Waiting]] = {}
        self._spent: dict[str, float] = {}
        self._length = 0
        self._now = 0.0

    def __len__(self) -> int:
        return self._length

    def count(self, client: str) -> int:
        """The number of requests of a client that wait."""
        return len(self._lines.get(client, ()))

    def cost_before(self, client: str) -> float:
        """The cost that is served before a further request of a client."""
        own = self._cost(client)
        others = (self._cost(other) for other in self._lines if other != client)
        return own + sum(min(cost, max(own, 1)) for cost in others)

    def _cost(self, client: str) -> float:
        return sum(entry.cost for entry in self._lines.get(client, ()))

    def put(self, entry: Waiting) -> None:
        """Adds a request."""
        line = self._lines.get(entry.client)
        if line is None:  # one that was away has saved up nothing
            line = self._lines[entry.client] = deque()
            self._spent[entry.client] = max(self._now, self._spent.get(entry.client, 0.0))
        line.append(entry)
        self._length += 1

    def discard(self, entry: Waiting) -> None:
        """Removes a request that may have been taken already."""
        line = self._lines.get(entry.client, ())
        if entry in line:
            line.remove(entry)
            self._length -= 1
            self._forget(entry.client)

    def take(self, most: int, most_cost: float) -> list[Waiting]:
        """Takes the next requests, at most `most` with a total cost of `most_cost` (one may exceed it alone)."""
        taken: list[Waiting] = []
        cost = 0.0
        while self._lines and len(taken) < most:
            client = min(self._lines, key=self._spent.__getitem__)
            entry = self._lines[client][0]
            if taken and cost + entry.cost > most_cost:
                break
            self._lines[client].popleft()
            self._length -= 1
            self._now = self._spent[client]
            self._spent[client] += entry.cost
            self._forget(client)
            cost += entry.cost
            taken.append(entry)
        return taken

    def _forget(self, client: str) -> None:
        if not self._lines[client]:
            del self._lines[client]
        if not self._lines:
            self._spent.clear()
            self._now = 0.0
        elif len(self._spent) > 2 * len(self._lines) + 64:
            self._spent = {
                name: spent for name, spent in self._spent.items() if name in self._lines or spent > self._now
            }


class Batcher:
    """Collects requests into batches for a worker, such as the model.

    Args:
        work: takes a list of requests, returns for each an answer or an exception; runs on a thread of its own.
        max_batch, max_cost: the most requests that are answered together, and the most that they cost.
        wait_seconds: how long the first of them waits for others, if the work is idle. While it is busy, requests
            gather by themselves.
        max_waiting, max_client_waiting: the most requests that wait, in total and of one client. Others are refused.
        threads: the number of threads that work, each on its own batch.
        name: the name of the threads.
    """

    def __init__(
        self,
        work: Callable[[list], list],
        max_batch: int = 16,
        wait_seconds: float = 0.004,
        max_waiting: int = 512,
        max_client_waiting: int = 512,
        max_cost: float = math.inf,
        threads: int = 1,
        name: str = "model",
    ):
        self.work, self.max_batch, self.max_cost, self.wait_seconds = work, max_batch, max_cost, wait_seconds
        self.max_waiting, self.max_client_waiting = max_waiting, max_client_waiting
        self.batches = self.answered = 0
        self._queue = FairQueue()
        self._arrived = asyncio.Event()
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._count = threads
        self._tasks: list[asyncio.Task] = []
        self._cost_a_second: float | None = None

    @property
    def waiting(self) -> int:
        """The number of requests whose work has not begun."""
        return len(self._queue)

    def start(self) -> None:
        """Starts on the running event loop."""
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._run()) for _ in range(self._count)]

    @property
    def is_running(self) -> bool:
        """Whether requests are answered."""
        return bool(self._tasks) and not any(task.done() for task in self._tasks)

    async def answer(self, request: object, seconds: float, client: str = "", cost: float = 1) -> object:
        """Waits `seconds` at most for the answer to a request of a client; clients take turns. A cancelled request
        leaves the queue.

        Raises:
            Refused: 503 when too many wait or it cannot be answered in time, 429 when too many of this client wait,
                504 when it took longer.
        """
        self._admit(seconds, client)
        entry = Waiting(request, client, max(cost, 1), asyncio.get_running_loop().create_future())
        self._queue.put(entry)
        self._arrived.set()
        try:
            return await asyncio.wait_for(entry.future, seconds)
        except asyncio.TimeoutError as error:
            raise Refused(504, f"There was no answer within {seconds:g} seconds.") from error
        finally:
            self._queue.discard(entry)

    def _admit(self, seconds: float, client: str) -> None:
        if len(self._queue) >= self.max_waiting:
            raise Refused(503, "Too many requests are waiting: come back later.")
        if self._queue.count(client) >= self.max_client_waiting:
            raise Refused(429, f"{self.max_client_waiting} of your requests are waiting: come back later.")
        if self._cost_a_second:
            expected = self._queue.cost_before(client) / self._cost_a_second
            if expected > seconds:
                raise Refused(503, "The server has more to do than it can answer in time.", expected - seconds)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._arrived.wait()
            if 0 < len(self._queue) < self.max_batch and self.wait_seconds:
                await asyncio.sleep(self.wait_seconds)
            batch = self._queue.take(self.max_batch, self.max_cost)
            if not self._queue:
                self._arrived.clear()
            batch = [entry for entry in batch if not entry.future.done()]  # nobody waits for others
            if not batch:
                continue
            start = time.perf_counter()
            try:
                answers = await loop.run_in_executor(self._threads, self.work, [entry.request for entry in batch])
            except Exception as error:
                answers = [error] * len(batch)
            self._measure(sum(entry.cost for entry in batch), time.perf_counter() - start)
            self.batches += 1
            self.answered += len(batch)
            for entry, answer in zip(batch, answers, strict=True):
                if entry.future.done():
                    continue
                if isinstance(answer, Exception):
                    entry.future.set_exception(answer)
                else:
                    entry.future.set_result(answer)

    def _measure(self, cost: float, seconds: float) -> None:
        speed = self._count * cost / max(seconds, 1e-6)
        known = speed if self._cost_a_second is None else self._cost_a_second
        self._cost_a_second = known + _LATEST * (speed - known)

    async def stop(self) -> None:
        """Stops after the running batches; waiting requests are refused."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for entry in self._queue.take(len(self._queue), math.inf):
            if not entry.future.done():
                entry.future.set_exception(Refused(503, "The server is stopping."))
        self._threads.shutdown(wait=True)
