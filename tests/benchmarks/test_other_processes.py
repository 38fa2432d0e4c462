"""The CPU time of other processes, with real ones beside this one, below it, and ended."""

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import other_processes
from benchmarks.harness import ROOT
from benchmarks.other_processes import OtherProcesses, own_family, read_processes

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="/proc is of Linux")

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


def _folder(proc, processes):
    """A /proc of `pid: (name, flags, parent, user, system, ended)` in ticks."""
    for pid, (name, flags, parent, user, system, ended) in processes.items():
        (proc / str(pid)).mkdir(parents=True, exist_ok=True)
        fields = ["S", parent, 0, 0, 0, 0, flags, 0, 0, 0, 0, user, system, ended, 0, 20, 0]
        (proc / str(pid) / "stat").write_text(f"{pid} ({name}) {' '.join(map(str, fields))}\n", encoding="utf-8")


def test_fields_of_the_file(tmp_path):
    _folder(tmp_path, {7: ("a b) c", 0, 1, 100, 50, 30), 9: ("kworker", 0x00200000, 2, 900, 0, 0)})
    (tmp_path / "8").mkdir()  # it has just ended
    (tmp_path / "uptime").write_text("1 2", encoding="utf-8")
    ticks = os.sysconf("SC_CLK_TCK")
    assert read_processes(tmp_path) == {7: other_processes.Process("a b) c", 1, 150 / ticks, 30 / ticks)}


def test_family(tmp_path):
    own = os.getpid()
    rows = {own: 1, own + 1: own, own + 2: own + 1, own + 3: 1}
    _folder(tmp_path, {pid: ("p", 0, parent, 0, 0, 0) for pid, parent in rows.items()})
    assert own_family(read_processes(tmp_path)) == {own, own + 1, own + 2}


def test_what_a_process_took_before_the_window_is_not_counted_when_it_ends(tmp_path, monkeypatch):
    ticks, own = os.sysconf("SC_CLK_TCK"), os.getpid()
    monkeypatch.setattr(other_processes, "read_processes", lambda: read_processes(tmp_path))
    _folder(
        tmp_path, {own: ("own", 0, 1, 0, 0, 0), 7: ("make", 0, 1, 0, 0, 5 * ticks), 8: ("cc", 0, 7, 100 * ticks, 0, 0)}
    )
    others = OtherProcesses()
    (tmp_path / "8" / "stat").unlink()
    _folder(tmp_path, {7: ("make", 0, 1, 0, 0, (5 + 100 + 3) * ticks)})
    clock = iter((1e9, 1e9, 1e9))
    monkeypatch.setattr(other_processes.time, "monotonic", lambda: next(clock))
    others._start = 1e9 - 2  # a window of two seconds
    assert others.cores() == pytest.approx(3 / 2)


def test_without_proc_nothing_is_known(tmp_path, monkeypatch):
    monkeypatch.setattr(other_processes, "read_processes", lambda: read_processes(tmp_path / "none"))
    assert OtherProcesses().cores() is None
