"""Conditions on payloads, read and decided."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from typing import Any, NamedTuple

_RANGES = {"gt": operator.gt, "gte": operator.ge, "lt": operator.lt, "lte": operator.le}
_TAKES = "a value, a list of values or a range such as {'gte': 2020, 'lt': 2025}"


class Condition(NamedTuple):
    """A field of the payload, `"in"` or the name of a bound, and the values that it is compared with."""

    key: str
    name: str
    values: tuple


def conditions(where: Mapping[str, Any] | None) -> tuple[Condition, ...]:
    """Reads a filter: `{"licence": "cc0", "year": {"gte": 2020}, "lang": ["en", "de"]}`.

    All conditions hold together, and mean the same in every index:

    - Booleans, numbers and strings are three kinds, and a value is compared with values of its own kind only: `True`
      equals neither `1` nor `"true"`. Among numbers `1` equals `1.0`.
    - A list of values holds for a field that equals one of them; the values may be of several kinds.
    - A bound (`gt`, `gte`, `lt`, `lte`) orders numbers by value and strings by code points; booleans have no order.
    - A field that is missing, null, a list or an object matches nothing.
    - Numpy scalars count as the Python values that they hold, as they do in payloads.

    Raises:
        ValueError: what cannot be compared: None, NaN, infinity, an object, a boolean as a bound, an empty list.
    """
    found: list[Condition] = []
    if where is None:
        return ()
    if not isinstance(where, Mapping):
        raise ValueError(f"where is a dict of field: {_TAKES}; not {where!r:.60}.")
    for key, value in where.items():
        if getattr(value, "ndim", 0) == 1:  # an array
            value = value.tolist()
        if not isinstance(key, str) or not key:
            raise ValueError(f"where names fields of the payload by strings, not by {key!r:.60}.")
        if isinstance(value, Mapping):
            if not value or not set(value) <= set(_RANGES):
                raise ValueError(f"where[{key!r}] is {_TAKES}, not {value!r:.60}.")
            bounds = [Condition(key, name, (_scalar(key, bound),)) for name, bound in value.items()]
            found += bounds
            if any(isinstance(bound.values[0], bool) for bound in bounds):
                raise ValueError(f"where[{key!r}]: a boolean cannot be a bound.")
        else:
            values = value if isinstance(value, (list, tuple, set, frozenset)) else (value,)
            if not values:
                raise ValueError(f"where[{key!r}] is an empty list, which nothing matches.")
            found.append(Condition(key, "in", tuple(_scalar(key, one) for one in values)))
    return tuple(found)


def matches(payload: dict, where: tuple[Condition, ...]) -> bool:
    """Whether all conditions hold for a payload."""
    return all(_holds(payload.get(condition.key), condition) for condition in where)


def _scalar(key: str, value: Any) -> str | float | bool:
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()
    try:
        if isinstance(value, str):
            value.encode()
            return str(value)
        if isinstance(value, bool) or (isinstance(value, (int, float)) and math.isfinite(value)):
            return value
    except (OverflowError, UnicodeEncodeError):
        pass
    raise ValueError(f"where[{key!r}] is {_TAKES}; {value!r:.60} is not a string, number or boolean.")


def _family(value: Any) -> type | None:
    if isinstance(value, bool):
        return bool
    if isinstance(value, (int, float)):
        return float
    return str if isinstance(value, str) else None


def _holds(value: Any, condition: Condition) -> bool:
    same = [other for other in condition.values if _family(other) is _family(value)]
    if condition.name == "in":
        return value in same
    return bool(same) and _RANGES[condition.name](value, same[0])


__all__ = ["Condition", "conditions", "matches"]
