"""Metrics of a server in the text format of Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

if TYPE_CHECKING:
    from .batching import Batcher

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """Counts requests by status, latencies, batches, the memory and the time of the process, and what the functions
    `candidates` and `not_rescored` return."""

    def __init__(self, batcher: Batcher, candidates, not_rescored=lambda: 0):
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter("unimur_requests", "Requests by status.", ["status"], registry=self.registry)
        self.seconds = Histogram(
            "unimur_request_seconds", "From the end of the upload to the answer.", buckets=_SECONDS,
            registry=self.registry,
        )  # fmt: skip
        values = {
            "unimur_requests_waiting": ("Requests that the model has not begun.", lambda: batcher.waiting),
            "unimur_batches": ("Batches so far.", lambda: batcher.batches),
            "unimur_batched_requests": ("Requests in them.", lambda: batcher.answered),
            "unimur_candidates": ("Texts and images in the index.", candidates),
            "unimur_hits_not_rescored": ("Hits that the second stage could not rescore.", not_rescored),
        }
        for name, (about, value) in values.items():
            Gauge(name, about, registry=self.registry).set_function(value)

    def text(self) -> bytes:
        """All metrics as they are now."""
        return generate_latest(self.registry)
