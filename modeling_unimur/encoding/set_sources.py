"""Corpora of retrieval sets."""

from __future__ import annotations

from collections.abc import Iterator

from ..data.picture_bytes import FileStamps
from ..data.retrieval_sources import load_retrieval_set
from .items import BadItem, Item, make_item, plain_fields
from .picture_sources import unread_file


def set_items(source: str) -> Iterator[Item | BadItem]:
    """Documents of a retrieval set: texts, and images with their captions; further columns go into the payload."""
    stamps = FileStamps()
    for record in load_retrieval_set(source).corpus:
        name, text, image = record["doc_id"], record["text"] or "", record["image"]
        fields = plain_fields(record, "doc_id", "kind", "text", "image")
        if record["kind"] == "text":
            yield make_item("text", name, text, {"text": text, **fields}, named=True)
            continue
        caption = {"caption": text} if text.strip() else {}
        try:
            stamp = stamps.stamp(image)
            yield make_item("image", name, image, {"image": image, **caption, **fields}, stamp, named=True)
        except OSError as error:
            yield unread_file(name, error, named=True)
        except (TypeError, ValueError) as error:
            yield BadItem(name, f"its image is no path: {error}")


__all__ = ["set_items"]
