"""Closes idle connections and limits connections per client, which uvicorn does not."""

from __future__ import annotations

import json
from collections import Counter
from http import HTTPStatus

from .clients import client_host
from .limits import Refused, ServingLimits

try:
    import h11
    from uvicorn.protocols.http.h11_impl import H11Protocol
except ImportError as error:
    raise ImportError("A server needs FastAPI and uvicorn: `pip install unimur[serve]`.") from error


def protocol_of(limits: ServingLimits, proxies: tuple[str, ...] = ()) -> type[H11Protocol]:
    """The protocol class for `uvicorn.Config(http=...)`. `proxies` are hosts that may open any number of connections,
    up to the server's own limit."""
    counts: Counter[str] = Counter()

    class GuardedProtocol(H11Protocol):
        """Closes a connection whose headers, body or reading of the answer take too long."""

        def connection_made(self, transport) -> None:
            super().connection_made(transport)
            self._stage, self._deadline, self._counted = None, None, None
            host = client_host(self.client)
            if counts.total() >= limits.connections:
                return self._refuse(Refused(503, "The server has too many open connections: come back later."))
            if counts[host] >= limits.client_connections and host not in proxies:
                return self._refuse(Refused(429, f"You have {counts[host]} open connections: close some."))
            self._counted = host
            counts[host] += 1
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            if self._counted is not None:
                counts[self._counted] -= 1
                if not counts[self._counted]:
                    del counts[self._counted]
                self._counted = None
            self._enter(None)
            super().connection_lost(exc)
            self._unset_keepalive_if_required()

        def data_received(self, data: bytes) -> None:
            if self._counted is None:  # refused: what comes is not read
                return
            super().data_received(data)
            self._watch()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if not self.transport.is_closing():
                self._watch()

        def _watch(self) -> None:
            """Determines what the connection waits for, and restarts the timer when that changes."""
            state = self.conn.their_state
            if state is h11.SEND_BODY:  # the application counts the time of an upload as well, and answers with 408
                self._enter("body", id(self.cycle))
            elif self.cycle is not None and not self.cycle.response_complete:
                self._enter("answer", id(self.cycle))
            elif state is h11.IDLE and (self.timeout_keep_alive_task is None):
                self._enter("head")
            else:
                self._enter(None)

        def _enter(self, name: str | None, number: int = 0) -> None:
            stage = None if name is None else (name, number)
            if stage == self._stage:
                return
            if self._deadline is not None:
                self._deadline.cancel()
            self._stage, self._deadline = stage, None
            if name is not None:
                seconds = {
                    "head": limits.header_seconds,
                    "body": limits.upload_seconds + 5,
                    "answer": limits.upload_seconds + 2 * limits.seconds + 5,
                }[name]
                self._deadline = self.loop.call_later(seconds, self._late, name)

        def _late(self, name: str) -> None:
            if self.transport.is_closing():
                self.transport.abort()
            elif name == "head" and self.conn.trailing_data[0]:
                self._refuse(Refused(408, f"The headers took longer than {limits.header_seconds:g} seconds."))
            elif name == "head":
                self.transport.close()
            else:  # a client that does not read would hold a graceful end open
                self.transport.abort()

        def _refuse(self, refused: Refused) -> None:
            body = json.dumps({"error": refused.reason}).encode()
            lines = [
                f"HTTP/1.1 {refused.status} {HTTPStatus(refused.status).phrase}",
                "Content-Type: application/json",
                f"Content-Length: {len(body)}",
                "Connection: close",
                *(f"{name}: {value}" for name, value in refused.headers.items()),
            ]
            self.transport.write("\r\n".join([*lines, "", ""]).encode() + body)
            self.transport.close()

    return GuardedProtocol
