"""What a source holds: things to encode, and what cannot be."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from ...data.row_store import key_of
from ...vector_index import checked_id, payload_text


class Item(NamedTuple):
    """One text or picture.

    Args:
        kind: `"text"` or `"image"`.
        id: unique within its kind.
        content: the text itself, or the address of the picture (`reading`).
        payload: JSON of what comes back with a hit.
        stamp: changes when the content or the payload may have.
    """

    kind: str
    id: str
    content: str
    payload: str
    stamp: str


class BadItem(NamedTuple):
    """Something that cannot be encoded: what it is called, and why."""

    item: str
    reason: str


def make_item(kind: str, item_id: str, content: str, payload: dict[str, Any], stamp: str = "") -> Item | BadItem:
    """An item, or why it can be none: an id or a payload that no index takes, an empty text.

    Args:
        kind, item_id, content: of `Item`.
        payload: fields that JSON can hold.
        stamp: of the file behind a picture.
    """
    try:
        checked_id(item_id)
        if kind == "text" and not content.strip():
            raise ValueError("an empty text")
        written = payload_text(item_id, payload)
    except ValueError as error:
        return BadItem(str(item_id), str(error))
    return Item(kind, item_id, content, written, key_of(f"{stamp}\0{written}").hex())


def plain_fields(record: dict[str, Any], *without: str) -> dict[str, Any]:
    """Fields of a record that JSON can hold, but for some."""

    def is_plain(value: Any) -> bool:
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError):
            return False
        return True

    return {
        key: value for key, value in record.items() if key not in without and value is not None and is_plain(value)
    }


__all__ = ["BadItem", "Item", "make_item", "plain_fields"]
