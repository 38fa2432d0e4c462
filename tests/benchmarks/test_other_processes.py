"""The CPU time of other processes, with real ones beside this one, below it, and ended."""

import contextlib
import json
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from benchmarks import other_processes
from benchmarks.harness import ROOT
from benchmarks.other_processes import OtherProcesses, own_family, read_processes

_SPIN = "while True: pass"
_SPIN_BY_CHILDREN = """
import subprocess, sys
while True:
    subprocess.run([sys.executable, "-S", "-c", "sum(range(2_000_000))"])
"""
_WATCH = """
import json, time
from benchmarks.other_processes import OtherProcesses

start, others = time.monotonic(), OtherProcesses()
time.sleep(2)
seconds, cores = others.seconds(), others.cores()
window = time.monotonic() - start
print(json.dumps({"cores": cores, "seconds": seconds, "window": window, "busiest": others.busiest(50)}))
"""


@contextlib.contextmanager
def _running(code):
    with subprocess.Popen([sys.executable, "-S", "-c", code]) as process:
        try:
            yield process.pid
        finally:
            process.kill()


def _seen_from_beside() -> dict:
    done = subprocess.run([sys.executable, "-c", _WATCH], capture_output=True, text=True, cwd=ROOT, check=True)
    return json.loads(done.stdout)


def test_a_process_beside_this_one_counts():
    with _running(_SPIN) as pid:
        found = _seen_from_beside()
    assert found["seconds"][str(pid)] > 0.1
    assert found["cores"] * found["window"] >= found["seconds"][str(pid)]
    assert f"({pid})" in found["busiest"]


def test_own_children_do_not_count():
    with _running(_SPIN) as pid:
        others = OtherProcesses()
        spent = read_processes()[pid].seconds
        time.sleep(1)
        assert read_processes()[pid].seconds > spent
        assert not {pid, os.getpid()} & others.seconds().keys()
        assert f"({pid})" not in others.busiest(50)


def test_a_child_that_begins_later_does_not_count():
    others = OtherProcesses()
    with _running(_SPIN) as pid:
        time.sleep(0.1)
        assert pid in read_processes()
        assert pid not in others.seconds()


def test_processes_that_have_ended_count():
    with _running(_SPIN_BY_CHILDREN):
        found = _seen_from_beside()
    assert found["cores"] * found["window"] > sum(found["seconds"].values()) + 0.05


def _processes(rows):
    """What psutil tells of `pid: (name, parent, user, system, ended)`; `user` is None where it may not be read."""
    for pid, (name, parent, user, system, ended) in rows.items():
        times = None
        if user is not None:
            times = SimpleNamespace(user=user, system=system, children_user=ended, children_system=0.0)
        yield SimpleNamespace(pid=pid, info={"name": name, "ppid": parent, "cpu_times": times})


def test_threads_of_the_kernel_are_left_out(monkeypatch):
    rows = {2: ("kthreadd", 0, 1, 1, 0), 7: ("a b) c", 1, 1.0, 0.5, 0.3), 8: ("root's", 1, None, None, None)}
    rows |= {9: ("kworker", 2, 900, 0, 0)}
    monkeypatch.setattr(other_processes.psutil, "process_iter", lambda _: _processes(rows))
    assert read_processes() == {7: other_processes.Process("a b) c", 1, 1.5, 0.3)}
    rows[2] = ("make", 1, 1, 1, 0)  # in a container
    assert read_processes().keys() == {2, 7, 9}


def test_family():
    own = os.getpid()
    parents = {own: 1, own + 1: own, own + 2: own + 1, own + 3: 1}
    processes = {pid: other_processes.Process("p", parent, 0, 0) for pid, parent in parents.items()}
    assert own_family(processes) == {own, own + 1, own + 2}


def test_what_a_process_took_before_the_window_is_not_counted_when_it_ends(monkeypatch):
    process, own = other_processes.Process, os.getpid()
    found = {own: process("own", 1, 0, 0), 7: process("make", 1, 0, 5), 8: process("cc", 7, 100, 0)}
    monkeypatch.setattr(other_processes, "read_processes", lambda: found)
    others = OtherProcesses()
    found = {own: found[own], 7: process("make", 1, 0, 5 + 100 + 3)}
    clock = iter((1e9, 1e9, 1e9))
    monkeypatch.setattr(other_processes.time, "monotonic", lambda: next(clock))
    others._start = 1e9 - 2  # a window of two seconds
    assert others.cores() == pytest.approx(3 / 2)
