"""Where each image begins in `imgs.tsv` (lines `image_id<TAB>base64 of a JPEG`, 51 GB in WebQA)."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from ..atomic_files import atomic_file
from ..image_bytes import line_address

# WebQA numbers its images from 30,000,000; the line is the rest of the division (its notebook).
_FIRST_ID = 10_000_000
# Index files as WebQA and UniVL-DR call them, in the order in which they are looked for.
INDEX_NAMES = ("imgs.lineidx.new", "imgs.lineidx")


class LineIndex:
    """Byte offsets of a table's lines by image; numbers alone, so that it may go to other processes.

    Args:
        table: path of `imgs.tsv`.
        ids (`(lines,)`): ids in ascending order; None where the line of an image is its id modulo 10,000,000.
        offsets (`(lines,)`): byte at which each line begins.
    """

    def __init__(self, table: str | os.PathLike, ids: np.ndarray | None, offsets: np.ndarray):
        self.table, self.ids, self.offsets = os.path.abspath(table), ids, offsets

    def __len__(self) -> int:
        return len(self.offsets)

    def address(self, image_id: str) -> str:
        """Address of an image as `data.image_bytes` reads it.

        Raises:
            KeyError: the table has no such image.
        """
        try:
            number = int(image_id)
        except ValueError as error:
            raise KeyError(image_id) from error
        if self.ids is None:
            place = number % _FIRST_ID
            known = place < len(self.offsets)
        else:
            place = int(np.searchsorted(self.ids, number))
            known = place < len(self.ids) and self.ids[place] == number
        if not known:
            raise KeyError(image_id)
        return line_address(self.table, int(self.offsets[place]))

    @classmethod
    def read(cls, table: str | os.PathLike, index: str | os.PathLike) -> LineIndex:
        """Reads an index file: `offset` a line (WebQA's), or `image_id<TAB>offset` (UniVL-DR's `.new`).

        Raises:
            FileNotFoundError: one of the files is not there.
            ValueError: the index is in neither form, or leads to another image than it says.
        """
        if not Path(table).is_file():
            raise FileNotFoundError(f"There is no table of images {table}.")
        try:
            with open(index, encoding="ascii") as file:
                first = file.readline()
            named = "\t" in first
            if not first.strip():
                raise ValueError("it is empty")
            columns = np.loadtxt(index, dtype=np.int64, delimiter="\t" if named else None, ndmin=2)
        except (ValueError, UnicodeDecodeError) as error:
            raise ValueError(f"{index} is not an index of lines (`offset`, or `id<TAB>offset`): {error}") from error
        if columns.shape[1] != 1 + named or not len(columns):
            raise ValueError(
                f"{index} is not an index of lines: it needs `offset`, or `id<TAB>offset`, in every line."
            )
        if not named:
            found = cls(table, None, columns[:, 0])
        else:
            columns = columns[np.argsort(columns[:, 0], kind="stable")]
            found = cls(table, np.ascontiguousarray(columns[:, 0]), np.ascontiguousarray(columns[:, 1]))
        found._check(index)
        return found

    def _check(self, index: str | os.PathLike) -> None:
        """An index of another table would put wrong images beside the captions, so some lines are looked at."""
        with open(self.table, "rb") as file:
            for place in np.unique(np.linspace(0, len(self) - 1, 5).astype(int)):
                file.seek(int(self.offsets[place]))
                found = file.readline(64).partition(b"\t")[0]
                right = found.isdigit() and (
                    int(found) % _FIRST_ID == place if self.ids is None else int(found) == self.ids[place]
                )
                if not right:
                    raise ValueError(f"{index} is not the index of {self.table}: it leads to {found[:20]!r}.")


def write_line_index(table: str | os.PathLike, index: str | os.PathLike) -> None:
    """Writes `image_id<TAB>offset` for every line of a table, which is read once.

    Raises:
        FileNotFoundError: no such table.
        ValueError: a line does not begin with a number; the message tells the byte.
    """
    table, position = Path(table), 0
    bar = tqdm(total=table.stat().st_size, unit="B", unit_scale=True, desc=f"Indexing {table.name}")
    with atomic_file(index) as aside, table.open("rb") as file, aside.open("wb") as out, bar:
        for line in file:
            name = line.partition(b"\t")[0].strip()
            if not name.isdigit():
                raise ValueError(
                    f"{table}, byte {position}: a line `image_id<TAB>base64` is expected, not {name[:30]!r}"
                )
            out.write(b"%s\t%d\n" % (name, position))
            position += len(line)
            bar.update(len(line))


def find_line_index(folder: Path) -> LineIndex | None:
    """The index of a folder's `imgs.tsv`, made beside it where there is none; None where there is no table."""
    table = folder / "imgs.tsv"
    if not table.is_file():
        return None
    found = next((folder / name for name in INDEX_NAMES if (folder / name).is_file()), None)
    if found is None:
        found = folder / INDEX_NAMES[0]
        write_line_index(table, found)
    return LineIndex.read(table, found)
