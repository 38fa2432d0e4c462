"""An evaluation's summary as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..report import aligned, markdown_table

# The columns of UniVL-DR's main table.
COLUMNS = ("mrr@10", "ndcg@10", "mrr@20", "ndcg@20", "recall@20", "recall@100")
_NAMES = {"text": "texts alone", "image": "images alone", "both": "one index of both"}


def table(
    systems: Mapping[str, Mapping[str, dict]],
    setting: str,
    columns: Sequence[str] = COLUMNS,
    intervals: Sequence[str] = COLUMNS[:1],
) -> list[list[str]]:
    """Header and rows of one setting; in `both` with the share of pictures among the first ten by kind of query.

    Args:
        systems: what `evaluate.summary` returned.
        setting: `text`, `image` or `both`.
        columns: measures.
        intervals: measures whose interval is written out.
    """
    rows = {name: found[setting] for name, found in systems.items() if setting in found}
    first = next(iter(rows.values()), {})
    kinds = list(first.get("image_share", {}))
    header = ["system", *(column.upper() for column in columns)]
    header += [f"% images, {kind}" for kind in kinds]
    lines = [header]
    for name, row in rows.items():
        cells = [name]
        for column in columns:
            found = row[column]
            ends = f" [{found['low']:.1f}, {found['high']:.1f}]" if column in intervals else ""
            cells.append(f"{found['mean']:.1f}{ends}")
        cells += [f"{row['image_share'][kind]['returned']:.0f}" for kind in kinds]
        lines.append(cells)
    if kinds:
        relevant = [f"{first['image_share'][kind]['relevant']:.0f}" for kind in kinds]
        lines.append(["(of the relevant)", *[""] * len(columns), *relevant])
    return lines


def report(result: dict, markdown: bool = False) -> str:
    """All settings of an evaluation (`univl_dr.evaluate_univl_dr`) as text, with what was chosen on dev."""
    write = markdown_table if markdown else aligned
    parts = []
    for setting, name in _NAMES.items():
        rows = table(result["systems"], setting)
        if len(rows) > 1:
            queries = next(found[setting]["queries"] for found in result["systems"].values() if setting in found)
            parts.append(f"{name} ({queries} queries)\n\n{write(rows)}")
    for pair, found in result.get("differences", {}).items():
        parts.append(f"{pair}: {found['mean']:+.1f} MRR@10 [{found['low']:+.1f}, {found['high']:+.1f}], paired")
    chosen = result.get("chosen", {})
    if chosen:
        parts.append("Chosen on the development split: " + ", ".join(f"{k} {v}" for k, v in chosen.items()) + ".")
    parts.append(
        "Percent. Measures as trec_eval defines them; [95 % interval, bootstrap over queries]. In the settings of one "
        "kind the queries that it answers; a hit is any relevant document, recall the share of them. Share of "
        "images: of each query's first ten, averaged over queries."
    )
    return "\n\n".join(parts)


__all__ = ["COLUMNS", "report", "table"]
