"""How many processes decode images beside the one that runs the model."""

from __future__ import annotations

import os

# Fewer images than this are decoded before worker processes have started.
_WORTH_WORKERS = 2000
_MOST_WORKERS = 32


def worker_count(wanted: int | None, pictures: int) -> int:
    """Worker processes for so many images: as many as wanted, or one fewer than the CPUs that may be used."""
    if wanted is not None:
        return wanted
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cpus - 1, _MOST_WORKERS) if pictures >= _WORTH_WORKERS else 0


__all__ = ["worker_count"]
