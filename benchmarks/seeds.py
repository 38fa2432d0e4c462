"""What one recipe gives over seeds: mean and standard deviation of every figure on the test split.

    python benchmarks/seeds.py runs/seed1 runs/seed2 [--release FOLDER]

Folders of `unimur train recipes/unimur_mini.yaml training.seed=S training.output_dir=FOLDER`; the release, seed 0,
counts as one more. `..._std` is the deviation of a sample; the notes hold the figures of each run.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.harness import ROOT, argument_parser, report


def over_seeds(runs: list[dict]) -> dict[str, float]:
    """Means of what the runs' `results.json` hold, and standard deviations as `..._std`.

    Raises:
        ValueError: for fewer than two runs, or two of one seed.
    """
    seeds = [run["seed"] for run in runs]
    if len(seeds) < 2 or len(set(seeds)) < len(seeds):
        raise ValueError(f"A spread over seeds needs two runs of different seeds at least, not seeds {seeds}.")
    figures: dict[str, float] = {"seeds": len(runs)}
    for name in runs[0]["test"]:
        values = [run["test"][name] for run in runs]
        figures |= {name: statistics.mean(values), f"{name}_std": statistics.stdev(values)}
    return figures


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("runs", type=Path, nargs="+", help="folders of further runs")
    parser.add_argument("--release", type=Path, default=ROOT / "hub_cards" / "unimur-mini", help="of seed 0")
    args = parser.parse_args()
    runs = [json.loads((folder / "results.json").read_text()) for folder in (args.release, *args.runs)]
    notes = [
        f"seed {run['seed']}: " + ", ".join(f"{name} {value:.2f}" for name, value in run["test"].items())
        for run in runs
    ]
    report("unimur_mini_seeds", args, over_seeds(runs), notes)


if __name__ == "__main__":
    main()
