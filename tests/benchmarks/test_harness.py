"""Timing in turn, the busy machine, fresh processes and the file of results."""

import argparse
import itertools
import json
import os
import subprocess
import sys

import pytest
import torch

from benchmarks import harness


class _Others:
    """Other processes that take so many cores in one window after another; by default none."""

    def __init__(self, cores):
        self._cores = cores

    def cores(self):
        return next(self._cores, 0.0)

    def busiest(self):
        return "python (1234)"


def _others(monkeypatch, *cores):
    left = iter(cores)
    monkeypatch.setattr(harness, "OtherProcesses", lambda: _Others(left))


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    _others(monkeypatch)
    monkeypatch.setattr(harness, "CONDITIONS", harness.Conditions())


def _clock(monkeypatch, durations):
    """A clock on which the measured calls take these seconds."""
    ticks = itertools.chain.from_iterable((0.0, seconds) for seconds in durations)  # between calls no time passes
    now = itertools.accumulate(ticks)
    monkeypatch.setattr(harness.time, "perf_counter", lambda: next(now))
    monkeypatch.setattr(harness.time, "sleep", lambda seconds: None)


def test_variants_alternate_and_minima_count(monkeypatch):
    _clock(monkeypatch, [1.0, 5.0] * 6 + [0.9, 4.0])
    order = []
    timings = harness.alternate({"a": lambda: order.append("a"), "b": lambda: order.append("b")})
    assert order == ["a", "b"] * 8  # one warm-up and seven rounds
    assert timings.seconds == pytest.approx({"a": 0.9, "b": 4.0})
    assert timings.spread == pytest.approx(1 / 0.9 - 1)
    assert timings.retries == 0


def test_busy_machine_is_said_and_measured_again(monkeypatch, capsys):
    _clock(monkeypatch, [1.0] + [2.0] * 6 + [1.5] * 7)
    timings = harness.alternate({"a": lambda: None})
    assert "machine busy: a spreads by 100 %" in capsys.readouterr().err
    assert timings == harness.Timings({"a": 1.5}, 0.0, 1, 0.0)


def test_busy_to_the_end_reports_the_calmest_attempt(monkeypatch, capsys):
    _clock(monkeypatch, ([1.0] + [1.5] * 6) + ([1.0] + [3.0] * 6))
    timings = harness.alternate({"a": lambda: None}, retries=1)
    assert capsys.readouterr().err.count("machine busy") == 2
    assert timings.spread == pytest.approx(0.5)
    assert timings.retries == 1


def test_the_reference_alone_decides(monkeypatch):
    _clock(monkeypatch, [1.0, 1.0] + [1.0, 9.0] * 6)
    assert harness.alternate({"a": lambda: None, "b": lambda: None}, reference="a").retries == 0


def test_what_else_runs_is_said_and_measured_again(monkeypatch, capsys):
    _clock(monkeypatch, [1.0] * 7 + [2.0] * 7)
    _others(monkeypatch, 0.5, 0.01)
    assert harness.alternate({"a": lambda: None}) == harness.Timings({"a": 2.0}, 0.0, 1, 0.01)
    assert "0.50 cores, most of it python (1234)" in capsys.readouterr().err
    assert harness.CONDITIONS.figures == {"reference_spread": 0.0, "busy_retries": 1, "other_cores": 0.01}


def test_of_busy_attempts_the_one_with_the_least_beside_it_counts(monkeypatch):
    _clock(monkeypatch, [3.0] * 7 + ([1.0] + [1.5] * 6))
    _others(monkeypatch, 1.5, 0.5)
    assert harness.alternate({"a": lambda: None}, retries=1).seconds == {"a": 1.0}


def test_conditions_are_the_worst_of_all_measurements(monkeypatch):
    conditions = harness.Conditions()
    for spread, retries, cores in ((0.1, 1, 0.05), (0.3, 0, 0.02), (0.0, 2, 0.01)):
        conditions.add({"reference_spread": spread, "busy_retries": retries, "other_cores": cores, "seconds": 9.0})
    conditions.add({"seconds": 1.0})
    assert conditions.figures == {"reference_spread": 0.3, "busy_retries": 3, "other_cores": 0.05}


@pytest.mark.parametrize(
    ("figures", "busy"),
    [
        ({}, False),
        ({"other_cores": 0.1, "reference_spread": 0.5}, False),
        ({"other_cores": 0.3, "reference_spread": 0.0}, True),
    ],
)
def test_other_processes_decide_whether_a_result_is_written(figures, busy):
    assert harness.is_busy(figures) is busy


def test_own_clocks_are_watched(monkeypatch, capsys):
    _others(monkeypatch, 0.7)
    with harness.watched():
        pass
    assert harness.CONDITIONS.figures == {"other_cores": 0.7}
    assert "machine busy" in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "message"), [({"rounds": 2}, "3 rounds"), ({"reference": "x"}, "none of the")])
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        harness.alternate({"a": lambda: None}, **arguments)


def _peak_of_a_block(mib):
    harness.reset_peak()
    before = harness.peak_mib()
    block = torch.ones(mib * 2**18)
    del block
    return harness.peak_mib() - before


def _timed(seconds):
    harness.CONDITIONS.add({"other_cores": seconds, "busy_retries": 1})
    return {"process": os.getpid()}


def _failing():
    raise ValueError("no such part")


def test_peak_counts_what_was_freed():
    # in a process of its own: this one may hold free memory, which takes the block without growing
    assert 60 < harness.in_fresh_process(_peak_of_a_block, 64) < 100


def test_fresh_process_says_what_it_measured_under_and_what_failed():
    harness.CONDITIONS.add({"other_cores": 0.1, "busy_retries": 2})
    assert harness.in_fresh_process(_timed, 0.5)["process"] != os.getpid()
    assert harness.CONDITIONS.figures == {"other_cores": 0.5, "busy_retries": 3}
    with pytest.raises(ValueError, match="no such part"):
        harness.in_fresh_process(_failing)


def test_partial_results_are_taken_again_under_the_same_settings_alone(monkeypatch, tmp_path):
    monkeypatch.setattr(harness, "ROOT", tmp_path)
    harness.Partial("index", [0, "a"]).add("exact", {"mib": 2.0})
    assert harness.Partial("index", [0, "a"]).parts == {"exact": {"mib": 2.0}}
    assert harness.Partial("index", [1, "a"]).parts == {}
    quick = harness.Partial("index", [0, "a"], quick=True)
    quick.add("ann", {"mib": 3.0})
    assert quick.parts == {"ann": {"mib": 3.0}}
    quick.remove()
    assert list(harness.Partial("index", [0, "a"]).parts) == ["exact"]
    harness.Partial("index").remove()
    harness.Partial("index").remove()
    assert harness.Partial("index", [0, "a"]).parts == {}


def test_quick_timing_takes_few_rounds_and_no_retries(monkeypatch):
    _clock(monkeypatch, [1.0, 2.0, 2.0])
    assert harness.alternate({"a": lambda: None}, quick=True) == harness.Timings({"a": 1.0}, 1.0, 0, 0.0)


def _arguments(**given):
    return argparse.Namespace(**{"quick": False, "seed": 0, "even_if_busy": False, **given})


def test_report_writes_the_result(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    monkeypatch.setattr(harness.sys, "argv", ["x/pipeline.py", "--seed", "3"])
    harness.report("pipeline", _arguments(seed=3), {"ratio": 1 / 3}, ["dtype float32"])
    result = json.loads((tmp_path / "pipeline.json").read_text(encoding="utf-8"))
    assert result["command"] == "python benchmarks/pipeline.py --seed 3"
    assert result["seed"] == 3
    assert result["figures"] == {"ratio": 0.333333}
    assert set(result["machine"]) == {"processor", "cores", "torch_threads", "memory_gib", "system"}
    assert {"python", "torch", "transformers"} <= set(result["versions"])
    assert "dtype float32" in capsys.readouterr().out


def test_quick_report_prints_json_and_writes_nothing(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(harness, "RESULTS", tmp_path / "results")
    harness.report("pipeline", _arguments(quick=True), {"ratio": 2.0})
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"ratio": 2.0}
    assert not (tmp_path / "results").exists()


def test_result_of_a_busy_machine_is_written_on_demand_only(monkeypatch, tmp_path, capsys):
    conditions = {"other_cores": 1.3, "reference_spread": 0.4}
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    harness.CONDITIONS.add(conditions)
    with pytest.raises(SystemExit, match="--even-if-busy"):
        harness.report("pipeline", _arguments(), {"ratio": 2.0})
    assert not list(tmp_path.iterdir())
    assert "ratio" in capsys.readouterr().out  # an hour's figures are shown
    harness.report("pipeline", _arguments(even_if_busy=True), {"ratio": 2.0})
    result = json.loads((tmp_path / "pipeline.json").read_text(encoding="utf-8"))
    assert result["figures"] == {"ratio": 2.0, **conditions}
    assert "busy" in result["notes"][-1]


_BUSY = """
import argparse
from pathlib import Path
from benchmarks import harness

harness.RESULTS = Path("RESULTS")
harness.alternate({"a": lambda: None}, rounds=3, retries=0)
harness.report("pipeline", argparse.Namespace(quick=False, seed=0, even_if_busy=False), {"ratio": 2.0})
"""


def test_a_real_process_beside_it_keeps_a_result_from_being_written(tmp_path):
    command = [sys.executable, "-c", _BUSY.replace('RESULTS")', f'{tmp_path}")')]
    with subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]) as beside:
        try:
            done = subprocess.run(command, capture_output=True, text=True, cwd=harness.ROOT, check=False)
        finally:
            beside.kill()
    assert done.returncode != 0
    assert "machine busy" in done.stderr
    assert "--even-if-busy" in done.stderr
    assert not list(tmp_path.iterdir())


def test_figures_are_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    with pytest.raises(ValueError, match="JSON"):
        harness.report("pipeline", _arguments(quick=True), {"ratio": float("nan")})
