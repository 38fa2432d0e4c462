"""Which documents stay: the last mention of an id, and of equal contents the first; in eight bytes a mention."""

from __future__ import annotations

import hashlib
from array import array

import numpy as np

from ..picture_bytes import read_picture_bytes
from .records import Document

DEDUPLICATE = ("none", "texts", "all")


def digest(*parts: str | bytes) -> int:
    """64 bits of a hash. Among a million different texts two share one with a probability of 3e-8."""
    state = hashlib.blake2b(digest_size=8)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, "little") + data)
    return int.from_bytes(state.digest(), "little")


class Mentions:
    """Hashes of the ids and contents of documents, in the order in which they are mentioned.

    Args:
        deduplicate: `none`; `texts`: texts that are equal word for word are one document; `all`: so are images of
            the same bytes under the same caption, which takes reading all of them.

    Raises:
        ValueError: another word.
    """

    def __init__(self, deduplicate: str):
        if deduplicate not in DEDUPLICATE:
            raise ValueError(f"deduplicate={deduplicate!r}: choose from {', '.join(DEDUPLICATE)}.")
        self.deduplicate = deduplicate
        self.ids, self.contents = array("Q"), array("Q")
        self.unreadable = 0

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, document: Document) -> None:
        """Counts a mention."""
        self.ids.append(digest(document.doc_id))
        self.contents.append(self._content(document))

    def _content(self, document: Document) -> int:
        if document.kind == "text" and self.deduplicate != "none":
            return digest("text", document.text)
        if self.deduplicate == "all" and document.image:
            try:
                return digest("image", document.text, read_picture_bytes(document.image))
            except (OSError, ValueError):
                self.unreadable += 1
        return digest("id", document.doc_id)

    def resolve(self) -> Kept:
        """What stays of all mentions so far."""
        ids = np.frombuffer(self.ids, dtype=np.uint64) if len(self.ids) else np.empty(0, np.uint64)
        contents = np.frombuffer(self.contents, dtype=np.uint64) if len(self.contents) else np.empty(0, np.uint64)
        # The last mention of each id: the first one seen from behind.
        known, behind = np.unique(ids[::-1], return_index=True)
        last = len(ids) - 1 - behind
        order = np.sort(last)
        _, first, place = np.unique(contents[order], return_index=True, return_inverse=True)
        # Of every mention that an id has last, the mention that stands for it.
        standing = order[first][place.reshape(-1)]
        row_of_known = standing[np.searchsorted(order, last)]
        keep = np.zeros(len(ids), dtype=bool)
        keep[order[first]] = True
        return Kept(keep, known, row_of_known)


class Kept:
    """Mentions that stay.

    Args:
        keep (`(mentions,)`): whether a mention becomes a document.
        known (`(ids,)`): hashes of all ids in ascending order.
        rows (`(ids,)`): the mention that stands for each.
    """

    def __init__(self, keep: np.ndarray, known: np.ndarray, rows: np.ndarray):
        self.keep, self.known, self.rows = keep, known, rows
        self._names: dict[int, str] = {}
        counts = np.unique(rows, return_counts=True)
        self._shared = frozenset(counts[0][counts[1] > 1].tolist())

    @property
    def merged(self) -> int:
        """Ids that another id stands for."""
        return len(self.known) - int(self.keep.sum())

    def name(self, row: int, doc_id: str) -> None:
        """Notes the id of a mention that stays, where it stands for others too."""
        if row in self._shared:
            self._names[row] = doc_id

    def document(self, doc_id: str) -> str | None:
        """The id of the document that stands for an id, None for an id that was never mentioned."""
        wanted = np.uint64(digest(doc_id))
        place = int(np.searchsorted(self.known, wanted))
        if place == len(self.known) or self.known[place] != wanted:
            return None
        return self._names.get(int(self.rows[place]), doc_id)


__all__ = ["DEDUPLICATE", "Kept", "Mentions", "digest"]
