"""Results of a task as files and tables."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..data.atomic_files import atomic_file, write_json
from .provenance import package_versions, this_machine
from .significance import bootstrap, paired_bootstrap

_RESULTS, _VALUES = "results.json", "values.npz"


@dataclass
class Figures:
    """One system's figures.

    Args:
        values: measure -> `(queries,)`, or `(runs, queries)` whose runs are averaged, in percent or 0 to 1 as its name
            says; NaN where it does not apply.
        weights: measure -> `(queries,)`, for means that are not plain.
        scalars: figures of the whole set, which have no value a query.
        about: what the system is: `sees`, `model`, `revision`, `seconds`.
    """

    values: dict[str, np.ndarray]
    weights: dict[str, np.ndarray] = field(default_factory=dict)
    scalars: dict[str, float] = field(default_factory=dict)
    about: dict[str, object] = field(default_factory=dict)


@dataclass
class TaskResult:
    """All systems on one task.

    Args:
        task: its name.
        data: `path`, `digest`, `split`, counts and whatever identifies the queries.
        query_ids, clusters (`(queries,)`): a query's id, and what the bootstrap draws (its dialogue).
        systems: name -> figures.
        notes: what the measures mean, and what was left out.
        main: the measures of the short table, most telling first.
        seed: seed of whatever was drawn.
    """

    task: str
    data: dict[str, object]
    query_ids: np.ndarray
    clusters: np.ndarray
    systems: dict[str, Figures]
    notes: list[str] = field(default_factory=list)
    main: tuple[str, ...] = ()
    seed: int = 0
    _intervals: dict = field(default_factory=dict, repr=False)

    def measures(self) -> list[str]:
        """All measures of any system, in order."""
        return list(dict.fromkeys(name for figures in self.systems.values() for name in figures.values))

    def interval(self, system: str, measure: str):
        """Returns the mean and the 95 % interval of a measure; it is computed once."""
        if (system, measure) not in self._intervals:
            figures = self.systems[system]
            self._intervals[system, measure] = bootstrap(
                figures.values[measure], self.clusters, figures.weights.get(measure), self.seed
            )
        return self._intervals[system, measure]

    def difference(self, ours: str, theirs: str, measure: str):
        """Returns one system minus another on the same queries, with its 95 % interval.

        Raises:
            ValueError: the systems weigh the queries differently, so that there are no pairs.
        """
        one, other = self.systems[ours], self.systems[theirs]
        weights = one.weights.get(measure)
        if weights is not None and not np.array_equal(weights, other.weights.get(measure)):
            raise ValueError(f"{ours} and {theirs} weigh the queries of {measure} differently: they cannot be paired.")
        return paired_bootstrap(one.values[measure], other.values[measure], self.clusters, weights, self.seed)

    # -- files --------------------------------------------------------------------------------------------------------
    def save(self, folder: str | os.PathLike) -> list[Path]:
        """Writes `results.json`, `values.npz` (all figures, one per query) and `table.md`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / _RESULTS, folder / _VALUES, folder / "table.md"]
        record = {
            "task": self.task,
            "data": self.data,
            "queries": len(self.query_ids),
            "seed": self.seed,
            "systems": [self._record(name) for name in self.systems],
            "main": list(self.main),
            "notes": self.notes,
            "packages": package_versions(),
            "machine": this_machine(),
        }
        write_json(paths[0], record, ensure_ascii=False, allow_nan=False)
        arrays = {"query_ids": self.query_ids.astype(str), "clusters": self.clusters.astype(str)}
        for number, figures in enumerate(self.systems.values()):
            for kind in ("values", "weights"):
                arrays.update({f"{number}/{kind}/{name}": row for name, row in getattr(figures, kind).items()})
        with atomic_file(paths[1]) as aside, open(aside, "wb") as file:
            np.savez_compressed(file, **arrays)
        with atomic_file(paths[2]) as aside:
            aside.write_text(self.markdown(), encoding="utf-8")
        return paths

    def _record(self, name: str) -> dict:
        figures, found = self.systems[name], {}
        scalars = {key: float(value) for key, value in figures.scalars.items() if math.isfinite(value)}
        for measure in figures.values:
            interval = self.interval(name, measure)
            count = int((~np.isnan(figures.values[measure])).sum())
            if count:
                found[measure] = {**vars(interval), "queries": count}
        return {"name": name, **figures.about, "figures": found, "scalars": scalars}

    # -- tables -------------------------------------------------------------------------------------------------------
    def table(self, measures: Sequence[str] | None = None, intervals: bool = True) -> list[list[str]]:
        """Returns a header and one row per system."""
        wanted = list(measures or self.main or self.measures())
        rows = [["system", *wanted]]
        for name, figures in self.systems.items():
            cells = []
            for measure in wanted:
                if measure in figures.values:
                    found = self.interval(name, measure)
                    ends = f" [{found.low:.1f}, {found.high:.1f}]" if intervals else ""
                    cells.append("" if math.isnan(found.mean) else f"{found.mean:.1f}{ends}")
                else:
                    value = figures.scalars.get(measure, math.nan)
                    cells.append("" if math.isnan(value) else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}")
            rows.append([name, *cells])
        return rows

    def text(self) -> str:
        """Returns the main table for a terminal."""
        return aligned(self.table(intervals=False))

    def lines(self) -> list[str]:
        """Returns notes on the figures and on the inputs of each system."""
        about = {name: figures.about for name, figures in self.systems.items()}
        return [*self.notes, *(f"{name} sees {known['sees']}." for name, known in about.items() if "sees" in known)]

    def differences(self, reference: str, systems: Sequence[str] | None = None) -> list[list[str]]:
        """Returns a header and one row per system, or per chosen one: its main measures minus those of `reference`. A
        star marks a 95 % interval without 0."""
        wanted = [name for name in self.main if name in self.systems[reference].values]

        def cell(name: str, measure: str) -> str:
            if measure not in self.systems[name].values:
                return ""
            found = self.difference(name, reference, measure)
            star = "*" if found.low > 0 or found.high < 0 else ""
            return "" if math.isnan(found.mean) else f"{found.mean:+.1f}{star} [{found.low:+.1f}, {found.high:+.1f}]"

        chosen = [name for name in systems or self.systems if name in self.systems and name != reference]
        return [[f"minus {reference}", *wanted], *([name, *(cell(name, each) for each in wanted)] for name in chosen)]

    def markdown(self) -> str:
        """Returns the whole report."""
        about = ", ".join(f"{key} {value}" for key, value in self.data.items() if not isinstance(value, (dict, list)))
        parts = [f"# {self.task}", f"{len(self.query_ids)} queries; {about}.", markdown_table(self.table())]
        if len(self.systems) > 1 and self.main:
            parts.append(markdown_table(self.differences(next(iter(self.systems)))))
        others = [name for name in self.measures() if name not in self.main]
        if others and self.main:
            parts.append(markdown_table(self.table(others)))
        parts.append("\n".join(f"- {line}" for line in [*self.lines(), "[95 % interval, bootstrap over dialogues]."]))
        return "\n\n".join(parts) + "\n"


def aligned(rows: list[list[str]]) -> str:
    """Formats columns of equal width, with numbers aligned to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *cells]).rstrip())
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join(lines)


def markdown_table(rows: list[list[str]]) -> str:
    """Formats the same table in Markdown."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    lines.insert(1, f"| --- |{' ---: |' * (len(rows[0]) - 1)}")
    return "\n".join(lines)


def load_result(folder: str | os.PathLike) -> TaskResult:
    """Reads what `TaskResult.save` wrote.

    Raises:
        FileNotFoundError: the folder holds no results.
    """
    folder = Path(folder)
    if not (folder / _RESULTS).is_file() or not (folder / _VALUES).is_file():
        raise FileNotFoundError(f"{folder} contains no results: it needs {_RESULTS} and {_VALUES} of one run.")
    record = json.loads((folder / _RESULTS).read_text(encoding="utf-8"))
    systems = {}
    with np.load(folder / _VALUES) as arrays:
        for number, entry in enumerate(record["systems"]):
            parts: dict[str, dict[str, np.ndarray]] = {"values": {}, "weights": {}}
            for key in arrays.files:
                owner, _, rest = key.partition("/")
                if owner == str(number):
                    kind, _, name = rest.partition("/")
                    parts[kind][name] = arrays[key]
            about = {key: value for key, value in entry.items() if key not in ("name", "figures", "scalars")}
            systems[entry["name"]] = Figures(parts["values"], parts["weights"], entry["scalars"], about)
        ids, clusters = arrays["query_ids"], arrays["clusters"]
    about = {"notes": record["notes"], "main": tuple(record["main"]), "seed": record["seed"]}
    return TaskResult(record["task"], record["data"], ids, clusters, systems, **about)


def merge_results(results: Sequence[TaskResult]) -> TaskResult:
    """Merges runs of one task on the same queries into one table; a system that is in several is taken from the first.

    Raises:
        ValueError: no run, other tasks, or other queries.
    """
    if not results:
        raise ValueError("A table of no runs: name at least one folder.")
    first = results[0]
    systems: dict[str, Figures] = {}
    notes: dict[str, None] = {}
    for result in results:
        if result.task != first.task:
            raise ValueError(f"One run is of {first.task}, another of {result.task}: a table has one task.")
        same = result.data.get("digest") == first.data.get("digest")
        if not same or not np.array_equal(result.query_ids.astype(str), first.query_ids.astype(str)):
            raise ValueError(
                f"The runs of {first.task} saw other queries ({first.data} and {result.data}): run them on the same "
                "data."
            )
        for name, figures in result.systems.items():
            if name not in systems:
                systems[name] = figures
            elif systems[name].about.get("revision") != figures.about.get("revision"):
                systems[f"{name} ({figures.about.get('revision')})"] = figures
        notes.update(dict.fromkeys(result.notes))
    return TaskResult(
        first.task, first.data, first.query_ids, first.clusters, systems, list(notes), first.main, first.seed
    )
