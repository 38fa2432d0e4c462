"""Compares the papers' published figures with those of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from .report import TaskResult, markdown_table

_FILE = Path(__file__).with_name("data") / "published_figures.json"


def published_figures(paper: str) -> list[dict]:
    """Returns the figures of a paper and of the systems that it compares with.

    Args:
        paper: `unimur` or `univl-dr`.

    Returns:
        records with `task`, `measure` (as the task's results call it), `system`, `value`, `source`, `status`
        (`published`, `second-hand`: read in another work, `inferred`) and `ours`, the system of a run that it is set
        beside: `{0}` and `{1}` stand for the run's first and second model, `{0} - {1}` for their difference, and null
        for none.
    """
    return json.loads(_FILE.read_text(encoding="utf-8"))[paper]


def comparison(paper: str, results: Mapping[str, TaskResult], models: Sequence[str]) -> str:
    """Makes a Markdown table of published figures and ours.

    Args:
        paper: as `published_figures`.
        results: by task; figures of other tasks are left out.
        models: names of the run's models in the results, the paper's own first.
    """
    rows = [["data, measure", "published", "of", "source", "here", "of"]]
    for figure in published_figures(paper):
        if figure["task"] not in results:
            continue
        sign = "+" if "-" in (figure["ours"] or "") else ""
        mark = "" if figure["status"] == "published" else f" ({figure['status']})"
        value = f"{figure['value']:{sign}.1f}{mark}"
        name, ours = _ours(results[figure["task"]], figure, models)
        rows.append([f"{figure['task']}, {figure['measure']}", value, figure["system"], figure["source"], ours, name])
    notes = [f"{task}: {line}" for task, result in results.items() for line in result.notes]
    about = (
        "Percent; [95 % interval]. `second-hand` was read in another work, `inferred` follows from published figures "
        "or is not stated as such. Definitions that the papers leave open are those of docs/evaluation.md."
    )
    return "\n\n".join([f"# {paper}", markdown_table(rows), about, "\n".join(f"- {note}" for note in notes)]) + "\n"


def _ours(result: TaskResult, figure: dict, models: Sequence[str]) -> tuple[str, str]:
    """Returns the name and the figure of the system to compare with a published one; empty if the run has none."""
    asked, measure = figure["ours"], figure["measure"]
    if asked is None or ("{1}" in asked and len(models) < 2):
        return "", ""
    name = asked.format(*models)
    parts = [part.format(*models) for part in asked.split(" - ")]
    if any(part not in result.systems or measure not in result.systems[part].values for part in parts):
        return name, ""
    if len(parts) == 1:
        found = result.interval(name, measure)
        return name, f"{found.mean:.1f} [{found.low:.1f}, {found.high:.1f}]"
    found = result.difference(*parts, measure)
    return name, f"{found.mean:+.1f} [{found.low:+.1f}, {found.high:+.1f}]"
