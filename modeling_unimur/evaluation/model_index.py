"""Writes the figures of a run into a model card's metadata, where the Hub reads them."""

from __future__ import annotations

import json
import os
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard

from ..data.atomic_files import atomic_file


def read_record(folder: str | os.PathLike) -> dict:
    """Reads `results.json` of a run.

    Raises:
        FileNotFoundError: the folder holds none.
    """
    path = Path(folder) / "results.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} contains no results.json: name the output folder of a run.")
    return json.loads(path.read_text(encoding="utf-8"))


def eval_results(record: dict, system: str) -> list[EvalResult]:
    """Converts a system's main figures in the record of a run to the Hub's `model-index`.

    Raises:
        ValueError: no such system.
    """
    rows = {row["name"]: row for row in record["systems"]}
    if system not in rows:
        raise ValueError(f"The run has no system {system!r}: choose from {', '.join(rows)}.")
    row, data = rows[system], record["data"]
    found = []
    for measure in record["main"]:
        figure = row["figures"].get(measure)
        value = row["scalars"].get(measure) if figure is None else figure["mean"]
        if value is None:
            continue  # a main measure that does not apply to this system
        found.append(
            EvalResult(
                task_type="retrieval",
                task_name=record["task"],
                dataset_type=record["task"],
                dataset_name=f"{record['task']}, {data.get('split', 'all')} ({record['queries']} queries)",
                dataset_split=data.get("split"),
                dataset_revision=data.get("digest"),
                metric_type=measure,
                metric_name=measure,
                metric_value=round(float(value), 2),
                metric_config=None if figure is None else f"95 % [{figure['low']:.1f}, {figure['high']:.1f}]",
            )
        )
    return found


def write_model_index(card: str | os.PathLike, record: dict, system: str) -> int:
    """Writes a system's main figures into a card and returns how many. Figures of the same data and measure are
    replaced; others stay.

    Args:
        card: the card's file, or the folder of a model with its `README.md`.
        record, system: as `eval_results`.

    Raises:
        FileNotFoundError: there is no card.
        ValueError: as `eval_results`.
    """
    path = Path(card)
    path = path / "README.md" if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"There is no model card {path}: write one first, or name its file.")
    new = eval_results(record, system)
    page = ModelCard.load(path)

    def key(result: EvalResult) -> tuple:
        return result.dataset_name, result.dataset_revision, result.metric_name

    replaced = {key(result) for result in new}
    kept = [result for result in page.data.eval_results or [] if key(result) not in replaced]
    page.data.model_name = page.data.model_name or system
    page.data.eval_results = [*kept, *new]
    with atomic_file(path) as aside:
        page.save(aside)
    return len(new)
