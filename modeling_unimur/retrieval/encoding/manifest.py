"""What is known of a corpus' items: which were encoded, from which content, and which are in the index."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ...data.json_lines import read_json_lines, write_json_lines
from .items import Item

_TABLES = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT);
CREATE TABLE IF NOT EXISTS items (
    kind TEXT, id TEXT, source TEXT, place INTEGER, stamp TEXT, key BLOB, payload TEXT, reason TEXT, indexed INTEGER,
    PRIMARY KEY (kind, id)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS waiting ON items (place) WHERE indexed = 0;
CREATE TEMP TABLE IF NOT EXISTS seen (kind TEXT, id TEXT, PRIMARY KEY (kind, id)) WITHOUT ROWID;
"""
# Variables that one statement may have, in every build of SQLite.
_VARIABLES = 900


class Record(NamedTuple):
    """What encoding an item came to.

    Args:
        place: of the item in its source.
        kind, id, stamp, payload: of the item.
        key: of its content, hexadecimal; None where it could not be encoded.
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
    """Writes records to a file that is there whole or not at all, for `Manifest.merge`."""
    write_json_lines(folder / f"{name}.jsonl", records)


class Manifest:
    """A database file; one process changes it at a time, and any number reads it meanwhile.

    Args:
        path: of the file; made when it is not there.
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
        """A remembered value; with `value`, remembers it."""
        if value is not None:
            self._database.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))
        row = self._database.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return row and row[0]

    # -- what a source holds ----------------------------------------------------------------------------------------
    def unknown(self, items: Sequence[Item]) -> tuple[list[bool], list[bool]]:
        """For each item whether it has to be encoded, and whether its id came before in this listing.

        An item that could not be encoded and has not changed since is not tried again.
        """
        stamps: dict[tuple[str, str], str] = {}
        for start in range(0, len(items), _VARIABLES // 2):
            part = items[start : start + _VARIABLES // 2]
            marks = ",".join(["(?, ?)"] * len(part))
            names = [word for item in part for word in (item.kind, item.id)]
            query = f"SELECT kind, id, stamp FROM items WHERE (kind, id) IN (VALUES {marks})"
            stamps.update({(kind, name): stamp for kind, name, stamp in self._database.execute(query, names)})
        again = []
        with self._transaction():
            for item in items:
                found = self._database.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", (item.kind, item.id))
                again.append(found.rowcount == 0)
        todo = [
            stamps.get((item.kind, item.id)) != item.stamp and not twice
            for item, twice in zip(items, again, strict=True)
        ]
        return todo, again

    def merge(self, folder: Path, source: str) -> int:
        """Takes over the files of `write_records`, each at once; returns the number of records."""
        count = 0
        for file in sorted(folder.glob("*.jsonl")):
            with self._transaction():
                for _, values in read_json_lines(file):
                    record = Record(*values)
                    key = None if record.key is None else bytes.fromhex(record.key)
                    row = (record.kind, record.id, source, record.place, record.stamp, key)
                    self._database.execute(
                        "INSERT OR REPLACE INTO items VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0)",
                        (*row, record.payload, record.reason),
                    )
                    count += 1
            file.unlink()
        for aside in folder.glob(".*"):  # of a writer that was killed
            aside.unlink()
        return count

    def forget_unseen(self, source: str) -> None:
        """Marks what the source no longer holds, after all of it was passed to `unknown`."""
        self._database.execute(
            "UPDATE items SET key = NULL, reason = NULL, indexed = 0 WHERE source = ? AND "
            "NOT EXISTS (SELECT 1 FROM seen WHERE seen.kind = items.kind AND seen.id = items.id)",
            (source,),
        )

    def forget_lost(self, find: Callable[[list[bytes]], Sequence[bool]], stored: int) -> None:
        """Marks items for encoding whose vectors are gone.

        Args:
            find: says of some keys whether their vectors are there.
            stored: number of vectors that are there.
        """
        query = "SELECT DISTINCT key FROM items WHERE key IS NOT NULL"
        if self._database.execute(f"SELECT COUNT(*) FROM ({query})").fetchone()[0] <= stored:
            return
        keys = [key for (key,) in self._database.execute(query)]
        lost = [(key,) for key, there in zip(keys, find(keys), strict=True) if not there]
        with self._transaction():
            self._database.executemany("UPDATE items SET stamp = '', indexed = 0 WHERE key = ?", lost)

    # -- what an index holds ----------------------------------------------------------------------------------------
    def indexed(self) -> dict[str, int]:
        """Number of items of each kind that are in the index."""
        query = "SELECT kind, COUNT(*) FROM items WHERE indexed = 1 AND key IS NOT NULL GROUP BY kind"
        return dict(self._database.execute(query))

    def nothing_indexed(self) -> None:
        """Forgets that anything is in the index."""
        self._database.execute("UPDATE items SET indexed = 0")

    def waiting(self, block: int) -> Iterator[list[tuple[str, str, bytes | None, str]]]:
        """Items that the index does not have as they are, `(kind, id, key, payload)`, in the order of their source;
        without a key those that it must not have."""
        query = "SELECT kind, id, key, payload FROM items WHERE indexed = 0 ORDER BY place, kind, id"
        cursor = self._database.execute(query)
        while rows := cursor.fetchmany(block):
            yield rows

    def waiting_keys(self, kind: str, count: int) -> list[bytes]:
        """Keys of some of the waiting items of a kind, spread over all of them."""
        query = "SELECT key FROM items WHERE indexed = 0 AND kind = ? AND key IS NOT NULL ORDER BY hex(key) LIMIT ?"
        return [key for (key,) in self._database.execute(query, (kind, count))]

    def all_indexed(self) -> None:
        """Remembers that the index has all that waited, and forgets what is gone."""
        with self._transaction():
            self._database.execute("DELETE FROM items WHERE key IS NULL AND reason IS NULL")
            self._database.execute("UPDATE items SET indexed = 1 WHERE indexed = 0")

    def failures(self, source: str) -> Iterator[tuple[str, str]]:
        """Id and reason of the items that could not be encoded."""
        query = "SELECT id, reason FROM items WHERE source = ? AND reason IS NOT NULL ORDER BY place"
        yield from self._database.execute(query, (source,))

    def count(self, source: str) -> int:
        """Number of the source's items that were encoded."""
        query = "SELECT COUNT(*) FROM items WHERE source = ? AND key IS NOT NULL"
        return self._database.execute(query, (source,)).fetchone()[0]

    def _transaction(self) -> _Transaction:
        return _Transaction(self._database)


class _Transaction:
    def __init__(self, database: sqlite3.Connection):
        self._database = database

    def __enter__(self) -> None:
        self._database.execute("BEGIN")

    def __exit__(self, kind: object, *exception: object) -> None:
        self._database.execute("COMMIT" if kind is None else "ROLLBACK")


__all__ = ["Manifest", "Record", "write_records"]
