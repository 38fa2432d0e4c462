"""What every benchmark shares: arguments, fair timing, peak memory, the table and the file of results."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from benchmarks.other_processes import OtherProcesses
from modeling_unimur.data.atomic_files import write_json
from modeling_unimur.data.cache import cache_dir
from modeling_unimur.evaluation.provenance import package_versions
from modeling_unimur.evaluation.significance import Interval

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
MIN_ROUNDS = 7
# Enough where one round takes minutes: short disturbances vanish in it.
LONG_ROUNDS = 3
# The machine is busy when other processes take more than this share of one core.
BUSY_CORES = 0.20
# A reference whose median lies this far above its minimum is measured again: other guests of a virtual machine are not
# among the processes that can be seen.
BUSY_SPREAD = 0.20


def argument_parser(description: str, model: str | None = None) -> argparse.ArgumentParser:
    """Returns a parser with the options of every benchmark: `--quick`, `--seed` and `--even-if-busy`.

    Args:
        description: The documentation of the benchmark.
        model: Name of a model in the cache folder that is the default of a further option, `--model`.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="smaller inputs, within a minute; prints one line of JSON, writes nothing"
    )
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn (default 0)")
    parser.add_argument(
        "--even-if-busy", action="store_true", help="write the result of a busy machine too, with a note that says so"
    )
    if model is not None:
        default = cache_dir() / "models" / model
        parser.add_argument("--model", type=Path, default=default, help=f"folder of a full release (default: {model})")
    return parser


# -- a quiet machine --------------------------------------------------------------------------------------------------
class Conditions:
    """How quiet the machine was in all that this process has measured: the worst of it.

    `report` adds the figures to every result that was timed: `reference_spread` (how far a reference's median lay
    above its minimum, as a share of it), `busy_retries` (how often rounds were repeated) and `other_cores` (cores that
    other processes kept busy).
    """

    def __init__(self) -> None:
        self.figures: dict[str, float] = {}

    def add(self, figures: Mapping[str, float]) -> None:
        """Adds what something was measured under; other figures are ignored."""
        for name in ("reference_spread", "other_cores"):
            if name in figures:
                self.figures[name] = max(figures[name], self.figures.get(name, 0.0))
        if "busy_retries" in figures:
            self.figures["busy_retries"] = self.figures.get("busy_retries", 0) + figures["busy_retries"]


CONDITIONS = Conditions()


def is_busy(figures: Mapping[str, float]) -> bool:
    """Whether other processes took too much."""
    return figures.get("other_cores", 0.0) > BUSY_CORES


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Watches what else runs while a benchmark measures with a clock of its own."""
    others = OtherProcesses()
    yield
    cores = others.cores()
    CONDITIONS.add({"other_cores": cores})
    if cores > BUSY_CORES:
        _say_busy(_what_else(cores, others))


def _what_else(cores: float, others: OtherProcesses) -> str:
    return f"other processes take {cores:.2f} cores, most of it {others.busiest()}"


def _say_busy(why: str) -> None:
    print(f"machine busy: {why}", file=sys.stderr, flush=True)


# -- timing -----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Timings:
    """What `alternate` measured.

    Args:
        seconds: minimum of each variant over the rounds.
        spread: how far the reference's median lay above its minimum, as a share of it.
        retries: how often the machine was busy and the rounds were repeated.
        other_cores: that other processes kept busy.
    """

    seconds: dict[str, float]
    spread: float
    retries: int
    other_cores: float


def alternate(
    variants: Mapping[str, Callable[[], object]],
    rounds: int = MIN_ROUNDS,
    reference: str | None = None,
    retries: int = 3,
    pause_seconds: float = 20.0,
    quick: bool = False,
) -> Timings:
    """Times variants in turn within one loop and takes the minimum of each.

    When other processes take more than a fifth of a core, or the reference spreads by more than 20 %, the machine is
    busy: it says so, waits and measures again. After the last retry the calmest attempt counts. What it was measured
    under is in the answer and in `CONDITIONS`.

    Args:
        variants: name -> the work; each runs once before the clock starts.
        rounds: 7 and more; `LONG_ROUNDS` where one round takes minutes, and in quick runs.
        reference: the variant whose spread is watched, the first by default.
        retries: how many more attempts a busy machine gets.
        pause_seconds: before each of them.
        quick: `LONG_ROUNDS` rounds and no more attempts, whatever the others say.

    Raises:
        ValueError: too few rounds, or a reference that is no variant.
    """
    rounds, retries = (LONG_ROUNDS, 0) if quick else (rounds, retries)
    if rounds < LONG_ROUNDS:
        raise ValueError(f"A minimum is taken of at least {LONG_ROUNDS} rounds, not of {rounds}.")
    reference = reference or next(iter(variants))
    if reference not in variants:
        raise ValueError(f"The reference {reference!r} is none of the variants {sorted(variants)}.")
    for work in variants.values():
        work()
    attempts: list[Timings] = []
    for attempt in range(retries + 1):
        if attempt:
            time.sleep(pause_seconds)
        times: dict[str, list[float]] = {name: [] for name in variants}
        others = OtherProcesses()
        for _ in range(rounds):
            for name, work in variants.items():
                start = time.perf_counter()
                work()
                times[name].append(time.perf_counter() - start)
        cores = others.cores()
        seconds = {name: min(values) for name, values in times.items()}
        spread = statistics.median(times[reference]) / seconds[reference] - 1
        attempts.append(Timings(seconds, spread, attempt, cores))
        if cores > BUSY_CORES:
            _say_busy(_what_else(cores, others))
        elif spread > BUSY_SPREAD:
            _say_busy(f"{reference} spreads by {100 * spread:.0f} %")
        else:
            break
    calmest = min(attempts, key=lambda timings: (timings.other_cores, timings.spread))
    calmest = dataclasses.replace(calmest, retries=len(attempts) - 1)
    found = {"reference_spread": calmest.spread, "busy_retries": calmest.retries, "other_cores": calmest.other_cores}
    CONDITIONS.add(found)
    return calmest


# -- memory -----------------------------------------------------------------------------------------------------------
def reset_peak() -> None:
    """Lets this process's peak start again from what it holds now, where the system can (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return  # the peak then includes loading


def peak_mib() -> float:
    """Peak of this process's resident memory in MiB, since `reset_peak` where the system can."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (2**20 if sys.platform == "darwin" else 1024)
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def in_fresh_process(function: Callable[..., Any], *arguments: object) -> Any:
    """Calls a function in a new Python process and returns its result. What it measured under is added
    to `CONDITIONS` of this process.

    Args:
        function: A function of a module; the new process imports it.
        arguments: Positional arguments that can be pickled, as the result can.

    Raises:
        Exception: What the function raised.
        BrokenProcessPool: The process was killed.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        found, conditions = pool.submit(_call, function, arguments).result()
    CONDITIONS.add(conditions)
    return found


def _call(function: Callable[..., Any], arguments: tuple) -> tuple[Any, dict[str, float]]:
    return function(*arguments), CONDITIONS.figures


class Partial:
    """The finished parts of a run that takes hours, in `runs/NAME.partial.json` until all are there: a killed run goes
    on from them.

    Args:
        name: Of the file of results.
        settings: What the parts depend on; parts of other settings are not taken.
        quick: Whether nothing is read or written.

    Attributes:
        parts: Name of a part -> its figures.
    """

    def __init__(self, name: str, settings: object = None, quick: bool = False):
        self.path, self.settings, self.quick = ROOT / "runs" / f"{name}.partial.json", settings, quick
        kept = json.loads(self.path.read_text(encoding="utf-8")) if self.path.is_file() and not quick else {}
        self.parts: dict[str, dict] = kept.get("parts", {}) if kept.get("settings") == settings else {}

    def add(self, name: str, figures: dict) -> None:
        """Keeps the figures of a part."""
        self.parts[name] = figures
        if not self.quick:
            write_json(self.path, {"settings": self.settings, "parts": self.parts})

    def remove(self) -> None:
        """Removes the file."""
        if not self.quick:
            self.path.unlink(missing_ok=True)


def random_unit_vectors(rng: np.random.Generator, rows: int, width: int) -> np.ndarray:
    """Vectors `(rows, width)` in random directions."""
    made = rng.standard_normal((rows, width), dtype=np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


# -- results ----------------------------------------------------------------------------------------------------------
def machine() -> dict:
    """Processor, cores, memory and system that the figures belong to."""
    processor = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        processor = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass  # not Linux
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
    }


def run_record() -> dict:
    """The command of this process, its machine, and the versions of the packages that do the work."""
    command = ["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]
    return {"command": " ".join(command), "machine": machine(), "versions": package_versions()}


def interval_figures(name: str, found: Interval) -> dict[str, float]:
    """A mean and the ends of its interval as `NAME`, `NAME_low` and `NAME_high`."""
    return {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high}


def report(name: str, args: argparse.Namespace, figures: Mapping[str, float], notes: Sequence[str] = ()) -> None:
    """Prints a table and writes `results/NAME.json`; with `--quick` prints one line of JSON and writes nothing.

    Args:
        name: of the benchmark.
        args: with `quick`, `seed` and `even_if_busy`.
        figures: what was measured; every value is a finite number. Those of `CONDITIONS` are added.
        notes: lines above the table, such as the dtype.

    Raises:
        SystemExit: the machine was busy, and `--even-if-busy` was not given: nothing is written.
    """
    figures = {key: float(f"{value:.6g}") for key, value in {**figures, **CONDITIONS.figures}.items()}
    if args.quick:
        print(json.dumps(figures, allow_nan=False), flush=True)
        return
    busy = is_busy(CONDITIONS.figures)
    if busy:
        cores = CONDITIONS.figures["other_cores"]
        notes = [*notes, f"measured on a busy machine: other processes took {cores:.2f} cores"]
    width = max(map(len, figures))
    print("\n".join(notes))
    for key, value in figures.items():
        print(f"{key:<{width}}  {value:>12,.4g}")
    if busy and not args.even_if_busy:
        raise SystemExit(f"Not written: {notes[-1]}. Run it on a quiet machine, or with --even-if-busy.")
    result = {**run_record(), "seed": args.seed, "notes": list(notes), "figures": figures}
    write_json(RESULTS / f"{name}.json", result, allow_nan=False)
    print(f"written to benchmarks/results/{name}.json")
