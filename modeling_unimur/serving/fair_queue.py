"""Requests in the order in which they are answered: clients take turns, however much one of them asks."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Any


@dataclass(eq=False)
class Waiting:
    """A request that waits.

    Args:
        request: what is asked.
        client: who asks.
        cost: of the answer, in any unit.
        future: of the answer.
    """

    request: Any
    client: str
    cost: float
    future: asyncio.Future


class FairQueue:
    """A queue that serves the client next whose requests have cost least; those of one client in their order."""

    def __init__(self) -> None:
        self._lines: dict[str, deque[Waiting]] = {}
        self._spent: dict[str, float] = {}
        self._length = 0
        self._now = 0.0

    def __len__(self) -> int:
        return self._length

    def count(self, client: str) -> int:
        """Requests of a client that wait."""
        return len(self._lines.get(client, ()))

    def cost_before(self, client: str) -> float:
        """What is answered before a further request of a client: its own, and as much of each other client."""
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
        """The requests that are next: at most so many, and of at most so much cost unless one alone has more."""
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


__all__ = ["FairQueue", "Waiting"]
