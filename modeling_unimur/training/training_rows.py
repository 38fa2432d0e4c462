"""Going over a dataset of training rows once."""

from torch.utils.data import Dataset

_AT_ONCE = 512


def all_rows(rows: Dataset) -> "list[dict]":
    """Every row, in order, many at a time where the dataset can."""
    many = getattr(rows, "__getitems__", None) or (lambda numbers: [rows[number] for number in numbers])
    starts = range(0, len(rows), _AT_ONCE)
    return [row for start in starts for row in many(range(start, min(start + _AT_ONCE, len(rows))))]


__all__ = ["all_rows"]
