"""Training curves of several runs in one figure: loss terms and recalls, mean and spread over the seeds of an arm.

python -m benchmarks.curves curves.png both=runs/both-0,runs/both-1 visual=runs/visual-0,runs/visual-1
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

# Okabe and Ito's palette, which people with any colour vision tell apart; black for a single arm.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
# Keys of a log in the order of the panels, and their titles.
_TITLES = {
    "loss": "Loss",
    "caption_loss": "Caption loss",
    "visual_matching_loss": "Visual matching loss",
    "textual_matching_loss": "Textual matching loss",
    "ret_token_loss": "[RET] token loss",
    "logit_scale": "Logit scale",
    "text_logit_scale": "Logit scale, text",
}
_IGNORED = ("epoch", "step", "grad_norm", "learning_rate", "total_flos", "train_loss")
_COLUMNS = 3


def read_log(path: str | os.PathLike) -> list[dict]:
    """Reads the log of a run, a list of dictionaries with `step`, from `training_log.json` or the folder with it."""
    path = Path(path)
    path = path / "training_log.json" if path.is_dir() else path
    return json.loads(path.read_text(encoding="utf-8"))


def series(log: Iterable[dict]) -> dict[str, dict[int, float]]:
    """What a log tells by name: step -> value. Times, and what is logged once at the end, are left out."""
    found: dict[str, dict[int, float]] = defaultdict(dict)
    for line in log:
        if "train_runtime" in line:
            continue
        for name, value in line.items():
            timed = name.endswith(("_runtime", "_per_second"))
            if isinstance(value, (int, float)) and name not in _IGNORED and not timed:
                found[name][line["step"]] = value
    return dict(found)


def mean_and_spread(runs: Sequence[dict[int, float]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps that every run has, the mean over the runs, and their sample standard deviation (0 for one run)."""
    steps = sorted(set.intersection(*(set(run) for run in runs)))
    values = np.array([[run[step] for step in steps] for run in runs], dtype=float)
    spread = values.std(axis=0, ddof=1) if len(runs) > 1 else np.zeros(len(steps))
    return np.array(steps), values.mean(axis=0), spread


def draw_curves(
    arms: Mapping[str, Sequence[str | os.PathLike | list[dict]]],
    output: str | os.PathLike,
    names: Sequence[str] | None = None,
    title: str | None = None,
) -> Path:
    """Draws one panel a quantity with one line an arm: the mean over the arm's runs, in a band of one standard
    deviation to each side.

    Args:
        arms: name of an arm -> its runs (seeds), each a path that `read_log` takes or a log itself. An arm without a
            quantity has no line in its panel.
        output: a file that ends in `.png`, `.svg` or `.pdf`.
        names: quantities to draw, as they are called in the log; by default the loss terms that vary and the recalls.
        title: above all panels.

    Returns:
        the path of the image.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: no run has logged anything.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError as error:
        raise ImportError("Curves are drawn by matplotlib: pip install unimur[plots]") from error
    logs = {
        arm: [series(run if isinstance(run, list) else read_log(run)) for run in runs] for arm, runs in arms.items()
    }
    present = sorted({name for runs in logs.values() for run in runs for name in run}, key=_place)
    if not present:
        raise ValueError("The runs have logged nothing.")
    names = list(names or _chosen(present))
    columns = min(_COLUMNS, len(names))
    rows = math.ceil(len(names) / columns)
    figure = Figure(figsize=(3.5 * columns, 2.5 * rows + 0.7), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    lines = {}
    for panel, name in zip(grid, names, strict=False):
        for number, (arm, runs) in enumerate(logs.items()):
            having = [run[name] for run in runs if name in run]
            if not having:
                continue
            steps, mean, spread = mean_and_spread(having)
            colour, dashes = _COLOURS[number % len(_COLOURS)], _DASHES[number % len(_DASHES)]
            label = arm if len(runs) == 1 else f"{arm} (mean of {len(runs)} runs ± 1 standard deviation)"
            lines[label] = panel.plot(steps, mean, linestyle=dashes, linewidth=1.6, color=colour)[0]
            if len(having) > 1:
                panel.fill_between(steps, mean - spread, mean + spread, color=colour, alpha=0.18, linewidth=0)
        panel.set_title(_title(name), fontsize=10, loc="left")
        panel.set_xlabel("step", fontsize=9)
        panel.tick_params(labelsize=8, length=3)
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(axis="y", color="#e6e6e6", linewidth=0.6)
        panel.set_axisbelow(True)
        panel.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        panel.margins(x=0.01)
    for panel in grid[len(names) :]:
        panel.set_axis_off()
    figure.legend(lines.values(), lines, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    if title:
        figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    output = Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output)
    return output


def _place(name: str) -> tuple:
    order = list(_TITLES)
    return (order.index(name), name) if name in order else (len(order) + name.startswith("eval_"), name)


def _chosen(present: list[str]) -> list[str]:
    recalls = [name for name in present if name.startswith("eval_")]
    # Of many recalls the ones at 10 say enough.
    at_ten = [name for name in recalls if name.endswith("_r10")]
    losses = [name for name in present if name.endswith("loss") and name not in recalls]
    terms = [name for name in losses if name != "loss"] or losses
    return [*terms, *(at_ten or recalls)] or present


def _title(name: str) -> str:
    if name in _TITLES:
        return _TITLES[name]
    words = name.removeprefix("eval_")
    stem, _, cut = words.rpartition("_r")
    if stem and cut.isdigit():
        left, _, right = stem.rpartition("_")
        what = f"{left.replace('_', ' ')} \N{RIGHTWARDS ARROW} {right}" if left else stem
        return f"{what[0].upper()}{what[1:]}, R@{cut} (%)"
    return words.replace("_", " ")


def main(argv: Sequence[str] | None = None) -> int:
    """Draws the curves of runs that are named on the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.curves", description=__doc__)
    parser.add_argument("output", help="a .png, .svg or .pdf file")
    parser.add_argument("arms", nargs="+", metavar="ARM=RUN[,RUN...]", help="an arm and its runs' output folders")
    args = parser.parse_args(argv)
    arms = {}
    for entry in args.arms:
        arm, equals, runs = entry.partition("=")
        if not equals or not runs:
            parser.error(f"{entry!r}: write ARM=RUN[,RUN...]")
        arms[arm] = runs.split(",")
    print(draw_curves(arms, args.output))
    return 0


if __name__ == "__main__":
    sys.exit(main())
