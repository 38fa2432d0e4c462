"""What is known of a corpus' items: which were encoded, from which content, and which are in the index."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from ..data.json_lines import json_line, read_json_lines, write_json_lines
from .items import BadItem, Item
from .sources import Reading

_TABLES = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT);
CREATE TABLE IF NOT EXISTS items (
    kind TEXT, id TEXT, source TEXT, place INTEGER, stamp TEXT, key BLOB, payload TEXT, reason TEXT, indexed INTEGER,
    PRIMARY KEY (kind, id)) WITHOUT ROWID;
DROP INDEX IF EXISTS waiting;
CREATE INDEX IF NOT EXISTS pending ON items (place) WHERE indexed != 1;
CREATE TEMP TABLE IF NOT EXISTS lost (key BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TEMP TABLE IF NOT EXISTS seen (kind TEXT, id TEXT, PRIMARY KEY (kind, id)) WITHOUT ROWID;
"""
# What the index has of an item: nothing, the item as it is here (nothing, if it has no key), or an older state of it.
ABSENT, CURRENT, OUTDATED = 0, 1, 2
_IS_HELD = f"((indexed = {CURRENT} AND key IS NOT NULL) OR indexed = {OUTDATED})"
_UNSEEN = "NOT EXISTS (SELECT 1 FROM seen WHERE seen.kind = items.kind AND seen.id = items.id)"
_A = {"text": "a text", "image": "an image"}
# Variables that one statement may have, in every build of SQLite.
_VARIABLES = 900
_BLOCK = 4096


class Record(NamedTuple):
    """Result of encoding one item.

    Args:
        place: place of the item in its source.
        kind, id, stamp, payload: fields of the item.
        key: key of its content, hexadecimal; None where it could not be encoded.
        reason: why not.
    """

    place: int
    kind: str
    id: str
    stamp: str
    payload: str
    key: str | None
    reason: str | None


def write_records(folder: Path, name: str, records: Iterable[Record]) -> None:
    """Write records to a file atomically, for `Manifest.merge`."""
    write_json_lines(folder / f"{name}.jsonl", records)


class Manifest:
    """A database file; one process changes it at a time, and any number reads it meanwhile.

    Args:
        path: path of the file, which is made if it is missing.
    """

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._database = sqlite3.connect(path, timeout=60, isolation_level=None)
        try:
            self._database.executescript(_TABLES)
        except sqlite3.DatabaseError as error:
            raise ValueError(f"{path} is damaged ({error}): delete its folder; contents are encoded again.") from error

    def __enter__(self) -> Manifest:
        return self

    def __exit__(self, *exception: object) -> None:
        self._database.close()

    def fact(self, name: str, value: str | None = None) -> str | None:
        """Return a stored value; with `value`, store it first."""
        if value is not None:
            self._database.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))
        row = self._database.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return row and row[0]

    # -- what a source holds ----------------------------------------------------------------------------------------
    def unknown(self, items: Sequence[Item], source: str) -> list[bool | str]:
        """For each item of a listing whether it has to be encoded, or why it cannot have its id: an earlier one of
        this listing has it, or one of another source.

        An item that could not be encoded and has not changed since is not tried again.
        """
        known: dict[tuple[str, str], tuple] = {}
        for start in range(0, len(items), _VARIABLES // 2):
            part = items[start : start + _VARIABLES // 2]
            marks = ",".join(["(?, ?)"] * len(part))
            names = [word for item in part for word in (item.kind, item.id)]
            query = f"SELECT kind, id, stamp, source, key IS NOT NULL FROM items WHERE (kind, id) IN (VALUES {marks})"
            known.update({(kind, name): about for kind, name, *about in self._database.execute(query, names)})
        answers: list[bool | str] = []
        with self._transaction():
            for item in items:
                stamp, owner, is_encoded = known.get((item.kind, item.id), (None, source, False))
                found = self._database.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", (item.kind, item.id))
                if found.rowcount == 0:
                    answers.append(f"the id of an earlier {item.kind}: the first one counts")
                elif owner != source and is_encoded:
                    answers.append(f"the id of {_A[item.kind]} of another source; give it another: {owner}")
                else:
                    answers.append(stamp != item.stamp or owner != source)
        return answers

    def merge(self, folder: Path, source: str) -> int:
        """Merge the files of `write_records`, each in one transaction, and return the number of records."""
        count = 0
        for file in sorted(folder.glob("*.jsonl")):
            with self._transaction():
                for _, values in read_json_lines(file):
                    record = Record(*values)
                    key = None if record.key is None else bytes.fromhex(record.key)
                    row = (record.kind, record.id, source, record.place, record.stamp, key)
                    state = self._state_after(record, key)
                    self._database.execute(
                        "INSERT OR REPLACE INTO items VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                        (*row, record.payload, record.reason, state),
                    )
                    count += 1
            file.unlink()
        for aside in folder.glob(".*"):  # of a writer that was killed
            aside.unlink()
        return count

    def _state_after(self, record: Record, key: bytes | None) -> int:
        query = f"SELECT key, payload, indexed, {_IS_HELD} FROM items WHERE kind = ? AND id = ?"
        old_key, old_payload, state, is_held = self._database.execute(query, (record.kind, record.id)).fetchone() or (
            None, None, ABSENT, False,
        )  # fmt: skip
        if key is not None and (old_key, old_payload, state) == (key, record.payload, CURRENT):
            return CURRENT  # only its file was touched
        return OUTDATED if is_held else ABSENT

    def unseen(self, source: str, below: str = "") -> int:
        """Number of the source's items that were encoded and are not in the listing that was passed to `unknown`; of
        those alone whose ids begin with `below`."""
        query = "SELECT COUNT(*) FROM items WHERE source = ? AND key IS NOT NULL AND substr(id, 1, ?) = ?"
        return self._database.execute(f"{query} AND {_UNSEEN}", (source, len(below), below)).fetchone()[0]

    def losses(self, source: str) -> tuple[int, int]:
        """Number of the source's items that the index holds and would lose: they are not in the listing any more, or
        cannot be encoded any more; and the number of all that it holds of the source."""
        lost = f"SUM({_UNSEEN} OR key IS NULL)"
        query = f"SELECT {lost}, COUNT(*) FROM items WHERE source = ? AND {_IS_HELD}"
        gone, held = self._database.execute(query, (source,)).fetchone()
        return gone or 0, held

    def forget_unseen(self, source: str) -> None:
        """Mark the items that the source no longer holds, after all of it was passed to `unknown`."""
        self._database.execute(
            f"UPDATE items SET indexed = CASE WHEN {_IS_HELD} THEN {OUTDATED} ELSE {ABSENT} END, key = NULL, "
            f"reason = NULL, stamp = '' WHERE source = ? AND {_UNSEEN}",
            (source,),
        )

    def refuse(self, kind: str, reasons: Iterable[tuple[str, str]]) -> None:
        """Record the items that the index refused, with their reasons."""
        with self._transaction():
            self._database.executemany(
                "UPDATE items SET key = NULL, reason = ? WHERE kind = ? AND id = ?",
                [(reason, kind, name) for name, reason in reasons],
            )

    # -- the sources ------------------------------------------------------------------------------------------------
    def sources(self) -> list[str]:
        """Return all known sources in the order in which they were added."""
        facts = self._database.execute("SELECT substr(name, 8) FROM facts WHERE name LIKE 'source=%' ORDER BY rowid")
        held = self._database.execute("SELECT DISTINCT source FROM items ORDER BY source")
        return list(dict.fromkeys(name for (name,) in (*facts, *held)))

    def reading(self, source: str) -> Reading | None:
        """Return how a source is read, or None for a new one. Sources of earlier versions keep their ids."""
        known = self.fact(f"source={source}")
        if known is not None:
            return Reading(**json.loads(known))
        return Reading(relative=False) if source in self.sources() else None

    def keep_reading(self, source: str, reading: Reading) -> None:
        """Store how a source is read."""
        self.fact(f"source={source}", json.dumps(reading._asdict()))

    def begins(self, prefix: str) -> bool:
        """Return whether the id of any item has this prefix."""
        query = "SELECT 1 FROM items WHERE substr(id, 1, ?) = ? LIMIT 1"
        return self._database.execute(query, (len(prefix), prefix)).fetchone() is not None

    def move(self, source: str, to: str) -> None:
        """Record that a source has moved. Its ids stay.

        Raises:
            ValueError: there is no such source, or already one in that place.
        """
        reading = self.reading(source)
        if reading is None or to in self.sources():
            known = ", ".join(self.sources()) or "nothing"
            raise ValueError(f"{source} cannot have moved to {to}: the index was built from {known}.")
        with self._transaction():
            self._database.execute("UPDATE items SET source = ? WHERE source = ?", (to, source))
            self._database.execute("DELETE FROM facts WHERE name = ?", (f"source={source}",))
        self.keep_reading(to, reading)

    def forget_lost(self, find: Callable[[list[bytes]], Sequence[bool]]) -> None:
        """Marks items for encoding whose vectors are gone; what the index has of them stays.

        Args:
            find: says of some keys whether their vectors are there.
        """
        cursor, lost = self._database.execute("SELECT key FROM items WHERE key IS NOT NULL"), set()
        while rows := cursor.fetchmany(_BLOCK):
            keys = [key for (key,) in rows]
            lost.update(key for key, there in zip(keys, find(keys), strict=True) if not there)
        if lost:
            with self._transaction():
                self._database.execute("DELETE FROM lost")
                self._database.executemany("INSERT INTO lost VALUES (?)", [(key,) for key in lost])
                self._database.execute("UPDATE items SET stamp = '' WHERE key IN (SELECT key FROM lost)")

    # -- what an index holds ----------------------------------------------------------------------------------------
    def indexed(self) -> dict[str, int]:
        """Return the number of items of each kind in the index."""
        query = "SELECT kind, COUNT(*) FROM items WHERE indexed = ? AND key IS NOT NULL GROUP BY kind"
        return dict(self._database.execute(query, (CURRENT,)))

    def nothing_indexed(self) -> None:
        """Mark all items as not in the index."""
        self._database.execute(f"UPDATE items SET indexed = {ABSENT}")

    def held(self, kind: str) -> Iterator[tuple[str, bytes, str]]:
        """Id, key and payload of all encoded items of a kind, whether the index has them yet or not."""
        yield from self._database.execute(
            "SELECT id, key, payload FROM items WHERE kind = ? AND key IS NOT NULL", (kind,)
        )

    def outdate(self, kind: str, names: Iterable[str]) -> None:
        """Mark items of a kind as pending that the index has, since their vectors are others now."""
        query = f"UPDATE items SET indexed = {OUTDATED} WHERE kind = ? AND id = ? AND indexed = {CURRENT}"
        with self._transaction():
            self._database.executemany(query, [(kind, name) for name in names])

    def waiting(self, block: int) -> Iterator[list[tuple[str, str, bytes | None, str]]]:
        """Items that the index does not have as they are, `(kind, id, key, payload)`, in the order of their source;
        without a key those that it must not have."""
        query = "SELECT kind, id, key, payload FROM items WHERE indexed != 1 ORDER BY place, kind, id"
        cursor = self._database.execute(query)
        while rows := cursor.fetchmany(block):
            yield rows

    def waiting_keys(self, kind: str, count: int) -> list[bytes]:
        """Return the keys of a sample of the pending items of a kind."""
        query = "SELECT key FROM items WHERE indexed != 1 AND kind = ? AND key IS NOT NULL ORDER BY hex(key) LIMIT ?"
        return [key for (key,) in self._database.execute(query, (kind, count))]

    def all_indexed(self) -> None:
        """Mark all pending items as indexed, and delete the removed ones."""
        with self._transaction():
            self._database.execute("DELETE FROM items WHERE key IS NULL AND reason IS NULL")
            self._database.execute(f"UPDATE items SET indexed = {CURRENT} WHERE indexed != {CURRENT}")

    def failures(self, source: str) -> Iterator[tuple[str, str]]:
        """Yield the id and the reason of the items that could not be encoded."""
        query = "SELECT id, reason FROM items WHERE source = ? AND reason IS NOT NULL ORDER BY place"
        yield from self._database.execute(query, (source,))

    def count(self, source: str) -> int:
        """Return the number of encoded items of a source."""
        query = "SELECT COUNT(*) FROM items WHERE source = ? AND key IS NOT NULL"
        return self._database.execute(query, (source,)).fetchone()[0]

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN")
        try:
            yield
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")


class Plan:
    """Chunks of the items that have to be encoded, from a listing; the same ones in every process.

    Args:
        listing: all items.
        manifest: what is known.
        source: name of the listing in the manifest.
        size: items a chunk.
        bad: file for what cannot be encoded; made when there is something.

    After the last chunk `listed` and `unchanged` count items, and `hiding` are those behind which others may lie.
    """

    def __init__(self, listing: Iterator[Item | BadItem], manifest: Manifest, source: str, size: int, bad: Path):
        self.listing, self.manifest, self.source, self.size, self.bad = listing, manifest, source, size, bad
        self.listed = self.unchanged = 0
        self.hiding: list[BadItem] = []
        bad.unlink(missing_ok=True)

    def __iter__(self) -> Iterator[list[tuple[int, Item]]]:
        waiting: list[tuple[int, Item]] = []
        part: list[tuple[int, Item]] = []
        for place, item in enumerate(self.listing):
            if isinstance(item, BadItem):
                self._refuse(item)
                continue
            self.listed += 1
            part.append((place, item))
            if len(part) == self.size:
                waiting += self._unknown(part)
                part = []
            while len(waiting) >= self.size:
                yield waiting[: self.size]
                waiting = waiting[self.size :]
        waiting += self._unknown(part)
        for start in range(0, len(waiting), self.size):
            yield waiting[start : start + self.size]

    def _unknown(self, part: list[tuple[int, Item]]) -> list[tuple[int, Item]]:
        if not part:
            return []
        answers = self.manifest.unknown([item for _, item in part], self.source)
        for (_, item), answer in zip(part, answers, strict=True):
            if isinstance(answer, str):
                self._refuse(BadItem(item.id, answer))
        self.unchanged += answers.count(False)
        return [entry for entry, answer in zip(part, answers, strict=True) if answer is True]

    def _refuse(self, item: BadItem) -> None:
        if item.hides is not None:
            self.hiding.append(item)
        with open(self.bad, "ab") as file:
            file.write(json_line({"item": item.item, "reason": item.reason}))
