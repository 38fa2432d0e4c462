"""What every benchmark shares: arguments, fair timing, peak memory, the table and the file of results."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
MIN_ROUNDS = 7
# Enough where one round takes minutes: short disturbances vanish in it.
LONG_ROUNDS = 3
# A reference whose median lies this far above its minimum shares the machine with something else.
BUSY_SPREAD = 0.20
_LIBRARIES = ("torch", "transformers", "tokenizers", "open_clip_torch", "timm", "numpy", "pillow")


def argument_parser(description: str) -> argparse.ArgumentParser:
    """A parser with the options of every benchmark: `--quick` and `--seed`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="smaller inputs, within a minute; prints one line of JSON, writes nothing"
    )
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn (default 0)")
    return parser


# -- timing -----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Timings:
    """What `alternate` measured.

    Args:
        seconds: minimum of each variant over the rounds.
        spread: how far the reference's median lay above its minimum, as a share of it.
        retries: how often the machine was busy and the rounds were repeated.
    """

    seconds: dict[str, float]
    spread: float
    retries: int


def alternate(
    variants: Mapping[str, Callable[[], object]],
    rounds: int = MIN_ROUNDS,
    reference: str | None = None,
    retries: int = 3,
    pause_seconds: float = 20.0,
) -> Timings:
    """Times variants in turn within one loop and takes the minimum of each.

    When the reference spreads by more than 20 %, the machine is busy: it says so, waits and measures again. After the
    last retry the calmest attempt counts, and its spread is in the answer.

    Args:
        variants: name -> the work; each runs once before the clock starts.
        rounds: 7 and more; `LONG_ROUNDS` where one round takes minutes.
        reference: the variant whose spread is watched, the first by default.
        retries: how many more attempts a busy machine gets.
        pause_seconds: before each of them.

    Raises:
        ValueError: too few rounds, or a reference that is no variant.
    """
    if rounds < LONG_ROUNDS:
        raise ValueError(f"A minimum is taken of at least {LONG_ROUNDS} rounds, not of {rounds}.")
    reference = reference or next(iter(variants))
    if reference not in variants:
        raise ValueError(f"The reference {reference!r} is none of the variants {sorted(variants)}.")
    for work in variants.values():
        work()
    best: Timings | None = None
    for attempt in range(retries + 1):
        times: dict[str, list[float]] = {name: [] for name in variants}
        for _ in range(rounds):
            for name, work in variants.items():
                start = time.perf_counter()
                work()
                times[name].append(time.perf_counter() - start)
        seconds = {name: min(values) for name, values in times.items()}
        spread = statistics.median(times[reference]) / seconds[reference] - 1
        if best is None or spread < best.spread:
            best = Timings(seconds, spread, attempt)
        best = Timings(best.seconds, best.spread, attempt)
        if spread <= BUSY_SPREAD:
            break
        print(f"machine busy: {reference} spreads by {100 * spread:.0f} %", file=sys.stderr, flush=True)
        if attempt < retries:
            time.sleep(pause_seconds)
    return best


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
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kilobytes; bytes on macOS
        return peak / 2**20 if sys.platform == "darwin" else peak / 1024


def available_mib() -> float:
    """Memory that a new process may take, in MiB."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) / 1024
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**20


def in_fresh_process(arguments: Sequence[str]) -> dict:
    """Runs Python with these arguments and reads the last line that it prints, a JSON object.

    Raises:
        RuntimeError: with the end of what it wrote, when it fails.
    """
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode:
        tail = "\n".join(done.stderr.strip().splitlines()[-5:])
        raise RuntimeError(f"{' '.join(arguments[:3])} failed with status {done.returncode}: {tail}")
    return json.loads(done.stdout.strip().splitlines()[-1])


# -- results ----------------------------------------------------------------------------------------------------------
def machine() -> dict:
    """Processor, cores, memory and system that the figures belong to."""
    processor = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        processor = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass  # not Linux
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "memory_gib": round(memory, 1),
        "system": f"{platform.system()} {platform.release()}",
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that do the work."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def report(name: str, args: argparse.Namespace, figures: Mapping[str, float], notes: Sequence[str] = ()) -> None:
    """Prints a table and writes `results/NAME.json`; with `--quick` prints one line of JSON and writes nothing.

    Args:
        name: of the benchmark.
        args: with `quick` and `seed`.
        figures: what was measured; every value is a finite number.
        notes: lines above the table, such as the dtype.
    """
    figures = {key: float(f"{value:.6g}") for key, value in figures.items()}
    if args.quick:
        print(json.dumps(figures, allow_nan=False), flush=True)
        return
    width = max(map(len, figures))
    print("\n".join(notes))
    for key, value in figures.items():
        print(f"{key:<{width}}  {value:>12,.4g}")
    result = {
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "machine": machine(),
        "versions": versions(),
        "seed": args.seed,
        "notes": list(notes),
        "figures": figures,
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result, indent=1, allow_nan=False) + "\n"
    (RESULTS / f"{name}.json").write_text(text, encoding="utf-8")
    print(f"written to benchmarks/results/{name}.json")


__all__ = [
    "BUSY_SPREAD",
    "LONG_ROUNDS",
    "MIN_ROUNDS",
    "RESULTS",
    "ROOT",
    "Timings",
    "alternate",
    "argument_parser",
    "available_mib",
    "in_fresh_process",
    "machine",
    "peak_mib",
    "report",
    "reset_peak",
    "versions",
]
