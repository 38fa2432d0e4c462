"""Millions of captions and image addresses in one file that is mapped into memory, not read."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import ipc

_BATCH = 16_384


def write_columns(path: Path, names: Sequence[str], rows: Iterable[tuple[str, ...]]) -> int:
    """Writes string columns as an Arrow file, aside and renamed; a batch of rows is in memory at a time.

    Returns:
        the number of rows.
    """
    schema = pa.schema([(name, pa.string()) for name in names])
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    os.close(handle)
    count, batch = 0, []
    try:
        with ipc.new_file(aside, schema) as writer:

            def flush() -> None:
                columns = [pa.array(column, pa.string()) for column in zip(*batch, strict=True)]
                writer.write_batch(pa.record_batch(columns, schema=schema))
                batch.clear()

            for row in rows:
                # File names may hold bytes that are no UTF-8; Arrow's strings may not.
                batch.append(tuple(text.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for text in row))
                count += 1
                if len(batch) == _BATCH:
                    flush()
            if batch:
                flush()
        os.chmod(aside, 0o644)
        os.replace(aside, path)
    finally:
        if os.path.exists(aside):
            os.unlink(aside)
    return count


class StringColumn(Sequence):
    """One column of such a file as a sequence of strings; `rows` chooses and orders them.

    It may go to another process: only the path and the choice travel.
    """

    def __init__(self, path: str | os.PathLike, name: str, rows: np.ndarray | None = None):
        self.path, self.name, self.rows = Path(path), name, rows
        self._column: pa.ChunkedArray | None = None

    @property
    def column(self) -> pa.ChunkedArray:
        """The whole column, mapped."""
        if self._column is None:
            self._column = ipc.open_file(pa.memory_map(str(self.path))).read_all().column(self.name)
        return self._column

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_column": None}

    def __len__(self) -> int:
        return len(self.column) if self.rows is None else len(self.rows)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return self.select(np.arange(len(self))[index])
        place = range(len(self))[int(index)]  # the usual IndexError, and numbers from the end
        return self.column[place if self.rows is None else int(self.rows[place])].as_py()

    def __iter__(self) -> Iterator[str]:
        if self.rows is not None:
            yield from (self.column[int(row)].as_py() for row in self.rows)
            return
        for chunk in self.column.chunks:
            yield from chunk.to_pylist()

    def select(self, positions: np.ndarray) -> StringColumn:
        """The strings at `positions`, in that order; nothing is read."""
        positions = np.asarray(positions, dtype=np.int64)
        return StringColumn(self.path, self.name, positions if self.rows is None else self.rows[positions])


__all__ = ["StringColumn", "write_columns"]
