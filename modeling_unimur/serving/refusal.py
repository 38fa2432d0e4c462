"""Why a request is not answered."""

from __future__ import annotations


class Refused(Exception):
    """A request that is not answered.

    Args:
        status: of HTTP.
        reason: one sentence for the client.
        retry_after: seconds after which the client may ask again.
    """

    def __init__(self, status: int, reason: str, retry_after: float | None = None):
        # What a client sent may be part of the sentence, and not all of it can be written as UTF-8.
        super().__init__(reason.encode("utf-8", "backslashreplace").decode())
        if retry_after is None and status in (429, 503):
            retry_after = 1
        self.status, self.reason, self.retry_after = status, str(self), retry_after

    @property
    def headers(self) -> dict[str, str]:
        """Of the response."""
        return {} if self.retry_after is None else {"Retry-After": str(max(1, round(self.retry_after)))}


__all__ = ["Refused"]
