"""Timing in turn, the busy machine, fresh processes and the file of results."""

import argparse
import itertools
import json

import pytest

from benchmarks import harness


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
    assert timings == harness.Timings({"a": 1.5}, 0.0, 1)


def test_busy_to_the_end_reports_the_calmest_attempt(monkeypatch, capsys):
    _clock(monkeypatch, ([1.0] + [1.5] * 6) + ([1.0] + [3.0] * 6))
    timings = harness.alternate({"a": lambda: None}, retries=1)
    assert capsys.readouterr().err.count("machine busy") == 2
    assert timings.spread == pytest.approx(0.5)
    assert timings.retries == 1


def test_the_reference_alone_decides(monkeypatch):
    _clock(monkeypatch, [1.0, 1.0] + [1.0, 9.0] * 6)
    assert harness.alternate({"a": lambda: None, "b": lambda: None}, reference="a").retries == 0


@pytest.mark.parametrize(("arguments", "message"), [({"rounds": 2}, "3 rounds"), ({"reference": "x"}, "none of the")])
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        harness.alternate({"a": lambda: None}, **arguments)


_PEAK = """
import json, torch
from benchmarks import harness

harness.reset_peak()
before = harness.peak_mib()
block = torch.ones(64 * 2**18)  # 64 MiB
del block
print(json.dumps({"mib": harness.peak_mib() - before}))
"""


def test_peak_counts_what_was_freed():
    # in a process of its own: this one may hold free memory, which takes the block without growing
    assert 60 < harness.in_fresh_process(["-c", _PEAK])["mib"] < 100


def test_fresh_process_reads_the_last_line_and_names_failures():
    assert harness.in_fresh_process(["-c", "print('words'); print('{\"mib\": 2}')"]) == {"mib": 2}
    with pytest.raises(RuntimeError, match="status 3"):
        harness.in_fresh_process(["-c", "raise SystemExit(3)"])


def test_report_writes_the_result(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    monkeypatch.setattr(harness.sys, "argv", ["x/pipeline.py", "--seed", "3"])
    harness.report("pipeline", argparse.Namespace(quick=False, seed=3), {"ratio": 1 / 3}, ["dtype float32"])
    result = json.loads((tmp_path / "pipeline.json").read_text(encoding="utf-8"))
    assert result["command"] == "python benchmarks/pipeline.py --seed 3"
    assert result["seed"] == 3
    assert result["figures"] == {"ratio": 0.333333}
    assert set(result["machine"]) == {"processor", "cores", "torch_threads", "memory_gib", "system"}
    assert {"python", "torch", "transformers"} <= set(result["versions"])
    assert "dtype float32" in capsys.readouterr().out


def test_quick_report_prints_json_and_writes_nothing(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(harness, "RESULTS", tmp_path / "results")
    harness.report("pipeline", argparse.Namespace(quick=True, seed=0), {"ratio": 2.0})
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"ratio": 2.0}
    assert not (tmp_path / "results").exists()


def test_figures_are_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    with pytest.raises(ValueError, match="JSON"):
        harness.report("pipeline", argparse.Namespace(quick=True, seed=0), {"ratio": float("nan")})
