"""A comparison as text, as Markdown and as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from .compare import Comparison, SystemResult
from .metrics import CUTOFFS
from .systems.base import KINDS


def table(comparison: Comparison, intervals: bool) -> list[list[str]]:
    """Header and rows; recalls with their interval's ends if wanted."""
    kinds = [kind for kind in reversed(KINDS) if kind in comparison.systems[0].recalls]
    header = ["system"]
    for kind in kinds:
        header += [f"{kind} R@{k}" if k == CUTOFFS[0] else f"R@{k}" for k in CUTOFFS]
    rows = [[*header, "ms a turn", "MB beyond", "MB in all"]]
    for result in comparison.systems:
        row = [result.name]
        for kind in kinds:
            row += [_recall(result.recalls[kind][f"r{k}"], intervals) for k in CUTOFFS]
        time = "" if result.milliseconds is None else f"{result.milliseconds:.1f}"
        rows.append([*row, time, f"{result.megabytes_beyond:.1f}", f"{result.megabytes_total:.1f}"])
    return rows


def _recall(interval: dict, with_ends: bool) -> str:
    text = f"{interval['mean']:.1f}"
    return f"{text} [{interval['low']:.0f}, {interval['high']:.0f}]" if with_ends else text


def aligned(rows: list[list[str]]) -> str:
    """Columns of equal width, numbers to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *cells]).rstrip())
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join(lines)


def markdown_table(rows: list[list[str]]) -> str:
    """The same in Markdown."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    lines.insert(1, f"| --- |{' ---: |' * (len(rows[0]) - 1)}")
    return "\n".join(lines)


def notes(comparison: Comparison) -> list[str]:
    """What the figures mean, and what each system sees."""
    about = [
        f"{comparison.dialogues} dialogues, {comparison.images} images and {comparison.texts} texts to choose from"
    ]
    about += [f"{count} have a gold {kind}" for kind, count in comparison.judged.items()]
    lines = [
        "; ".join(about) + ".",
        "R@k: percent of dialogues with a right answer among the first k; [95 % interval, bootstrap over dialogues].",
        f"ms a turn: median over single dialogues, warm, {comparison.threads} thread(s), reading and scoring. MB "
        "beyond: weights besides the dual encoder that made the image index; MB in all: with it, where the system "
        "needs it.",
        *(f"{result.name} sees {result.sees}." for result in comparison.systems),
        *(f"{name} is left out: {reason}" for name, reason in comparison.left_out.items()),
    ]
    return lines


def differences(comparison: Comparison, ours: str, theirs: str) -> list[str]:
    """One line a kind: R@10 of one system minus another's, on the same dialogues."""
    lines = []
    for kind in comparison.systems[0].recalls:
        found = comparison.difference(ours, theirs, kind, CUTOFFS[-1])
        verdict = "no difference is shown" if found["low"] <= 0 <= found["high"] else "beyond chance"
        lines.append(
            f"{kind} R@{CUTOFFS[-1]}, {ours} minus {theirs}: {found['mean']:+.1f} points "
            f"[{found['low']:+.1f}, {found['high']:+.1f}], {verdict} (95 %, paired)."
        )
    return lines


def _turns_table(comparison: Comparison) -> list[list[str]]:
    def cell(result: SystemResult, kind: str, length: str) -> str:
        found = result.by_turns[kind].get(length)
        return "" if found is None else f"{found[f'r{CUTOFFS[-1]}']:.1f} ({found['dialogues']})"

    columns = [(kind, length) for kind in comparison.systems[0].recalls for length in ("short", "long")]
    words = {"short": "1-2 turns", "long": "3 and more"}
    header = ["system", *(f"{kind} R@{CUTOFFS[-1]}, {words[length]} (n)" for kind, length in columns)]
    return [header, *([result.name, *(cell(result, *column) for column in columns)] for result in comparison.systems)]


def markdown(comparison: Comparison, title: str) -> str:
    """The whole report."""
    parts = [f"# {title}", markdown_table(table(comparison, True)), markdown_table(_turns_table(comparison))]
    parts.append("\n".join(f"- {line}" for line in notes(comparison)))
    return "\n\n".join(parts) + "\n"


def write(comparison: Comparison, folder: Path, title: str, about: dict) -> list[Path]:
    """Writes `compare.md` and `compare.json`.

    Args:
        comparison: the figures.
        folder: made if it is not there.
        title: of the report.
        about: what was compared: model, dialogues.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "compare.md", folder / "compare.json"]
    paths[0].write_text(markdown(comparison, title), encoding="utf-8")
    paths[1].write_text(json.dumps({**about, **asdict(comparison)}, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return paths


__all__ = ["aligned", "differences", "markdown", "markdown_table", "notes", "table", "write"]
