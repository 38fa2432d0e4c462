"""Conditions on payloads in Milvus' filter language."""

from __future__ import annotations

import json

from ..payload_filters import Condition

# All others stand for themselves.
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_SIGNS = {"in": "==", "gt": ">", "gte": ">=", "lt": "<", "lte": "<="}


def milvus_expression(where: tuple[Condition, ...]) -> str:
    """The conditions as Milvus' filter language, over the JSON field `payload`; empty without conditions.

    It may hold for more than `payload_filters.matches` says: milvus-lite takes booleans for numbers.
    """
    parts = []
    for key, name, values in where:
        # Membership is spelled out: milvus-lite knows `in` for plain fields only.
        sign = _SIGNS[name]
        each = [f"payload[{_quoted(key)}] {sign} {_quoted(value)}" for value in values]
        parts.append(each[0] if len(each) == 1 else f"({' or '.join(each)})")
    return " and ".join(parts)


def _quoted(value: str | float | bool) -> str:
    if isinstance(value, str):
        return '"' + "".join(_ESCAPES.get(sign, sign) for sign in value) + '"'
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        value = float(value)
    return json.dumps(value)


__all__ = ["milvus_expression"]
