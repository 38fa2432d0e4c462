"""The CPU time that other processes take while a benchmark measures, read by psutil."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

import psutil

# The process of Linux whose children are the threads of the kernel.
_KERNEL = "kthreadd"
# CPU time is counted in ticks of 10 ms: over a shorter window a single tick would look like much.
_SHORTEST_WINDOW = 1.0


@dataclass(frozen=True)
class Process:
    """CPU time of one process so far: of all its threads, and of its children that have ended, and of theirs."""

    name: str
    parent: int
    seconds: float
    seconds_of_ended: float


def read_processes() -> dict[int, Process]:
    """All processes but the threads of Linux's kernel, which work for somebody, often for the benchmark itself."""
    every = {process.pid: process.info for process in psutil.process_iter(["name", "ppid", "cpu_times"])}
    kernel, found = {pid for pid, info in every.items() if info["name"] == _KERNEL}, {}
    for pid, info in every.items():
        times = info["cpu_times"]  # None where it may not be read
        if times is not None and not {pid, info["ppid"]} & kernel:
            ended = getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
            found[pid] = Process(info["name"], info["ppid"], times.user + times.system, ended)
    return found


def own_family(processes: dict[int, Process]) -> set[int]:
    """Ids of this process and of all that it began, directly or not."""
    own = {os.getpid()}
    while found := {pid for pid, process in processes.items() if process.parent in own} - own:
        own |= found
    return own


class OtherProcesses:
    """What runs beside this process and its children, from now on.

    `cores` and `busiest` say how much it is. This process and all that it begins do not count.
    """

    def __init__(self) -> None:
        self._start, self._before = time.monotonic(), read_processes()
        self._own = own_family(self._before)

    def seconds(self) -> dict[int, float]:
        """CPU seconds since then of every other process that runs now, by its id."""
        return {pid: process.seconds - self._seconds_before(pid) for pid, process in self._now().items()}

    def cores(self) -> float:
        """Cores that others have kept busy since then, on average.

        A window shorter than a second is made one by waiting.
        """
        time.sleep(max(0.0, self._start + _SHORTEST_WINDOW - time.monotonic()))
        window, now = time.monotonic() - self._start, self._now()
        running = sum(process.seconds - self._seconds_before(pid) for pid, process in now.items())
        # A process that has ended is in the account of its parent, with what it took before the window.
        known = {pid: process for pid, process in self._before.items() if pid not in self._own}
        accounts = sum(
            process.seconds_of_ended - (known[pid].seconds_of_ended if pid in known else 0.0)
            for pid, process in now.items()
        )
        taken_before = sum(known[pid].seconds + known[pid].seconds_of_ended for pid in known.keys() - now.keys())
        return (running + max(0.0, accounts - taken_before)) / window

    def busiest(self, count: int = 3) -> str:
        """Names and ids of those that took the most since then."""
        seconds, now = self.seconds(), self._now()
        most = sorted((pid for pid in seconds if pid in now), key=lambda pid: -seconds[pid])[:count]
        return ", ".join(f"{now[pid].name} ({pid})" for pid in most if seconds[pid] > 0)

    def _now(self) -> dict[int, Process]:
        processes = read_processes()
        self._own |= own_family(processes)
        return {pid: process for pid, process in processes.items() if pid not in self._own}

    def _seconds_before(self, pid: int) -> float:
        return self._before[pid].seconds if pid in self._before else 0.0
