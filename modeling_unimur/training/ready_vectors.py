"""Reads precomputed vectors of any encoder from the file formats of indexes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

FAISS_ENDINGS = (".faiss", ".index", ".ivf")
_FORMATS = "an array (.npy), a table with a column of vectors (.parquet) or a FAISS index (.faiss, .index)"
# Vectors whose length differs from 1 by more than this are not normalised; half precision stays below it.
_UNIT = 5e-3


@dataclass
class ReadyVectors:
    """Vectors as they were stored.

    Args:
        values (`(items, width)`): float32.
        ids: one per row, where the file holds them.
        metric: how the file's own index ranks, `inner_product` or `l2`; None where the file does not say.
        note: what a person should know about them; empty for nothing.
    """

    values: np.ndarray
    ids: list[str] | None = None
    metric: str | None = None
    note: str = ""

    @property
    def lengths(self) -> np.ndarray:
        """Euclidean lengths `(items,)`."""
        return np.linalg.norm(self.values, axis=1)

    @property
    def normalised(self) -> bool:
        """Whether all vectors have length 1, those without direction left aside."""
        lengths = self.lengths
        return bool((np.abs(lengths[lengths > 0] - 1) < _UNIT).all())


def load_vectors(source: str | os.PathLike | np.ndarray, column: str | None = None) -> ReadyVectors:
    """Reads vectors and checks them.

    Args:
        source: a `.npy`, `.parquet` or FAISS file, or an array `(items, width)`.
        column: of a table, the one with the vectors; not needed where there is only one of lists of numbers.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another format, no vectors, vectors of unequal width, or one that holds no number; the message
            names the row and the remedy.
        ImportError: without the library that reads the file.
    """
    if isinstance(source, np.ndarray):
        found, name = ReadyVectors(source), "the array"
    else:
        path, name = Path(source).expanduser(), str(source)
        if not path.is_file():
            raise FileNotFoundError(f"There are no embeddings {name}: give {_FORMATS}.")
        ending = path.suffix.lower()
        if ending == ".npy":
            found = ReadyVectors(_read_npy(path))
        elif ending == ".parquet":
            found = _read_parquet(path, column)
        elif ending in FAISS_ENDINGS:
            found = _read_faiss(path)
        else:
            raise ValueError(f"{name}: the format {ending or 'without ending'} is unknown: give {_FORMATS}.")
    found.values = _checked(found.values, name)
    return found


def _checked(values: np.ndarray, name: str) -> np.ndarray:
    if values.ndim != 2 or values.dtype.kind not in "fiu":
        raise ValueError(
            f"{name} holds {values.dtype} of shape {values.shape}, not numbers of shape (items, width): one row a "
            "vector."
        )
    if not values.size:
        raise ValueError(f"{name} contains no vector (shape {values.shape}): embed the items first.")
    values = np.ascontiguousarray(values, dtype=np.float32)
    broken = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(broken):
        raise ValueError(
            f"{name}: {len(broken)} vectors hold NaN or infinity, the first in row {broken[0]}: embed these items "
            "again, or take them out of vectors and texts."
        )
    if not values.any():
        raise ValueError(f"{name} holds zeros alone: embed the items again.")
    return values


def _read_npy(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise ValueError(
            f"{path} is not a plain array ({error}): save it with numpy.save(path, array), numbers of shape (items, "
            "width)."
        ) from error


def read_table(path: Path):
    """A parquet file as an Arrow table.

    Raises:
        ImportError: without pyarrow.
        ValueError: when it is none.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ImportError(f"{path.name} is a parquet file: `pip install unimur[adapt]` brings pyarrow.") from error
    try:
        return pq.read_table(path)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is not a parquet file: {str(error).splitlines()[0]}") from error


def _read_parquet(path: Path, column: str | None) -> ReadyVectors:
    table = read_table(path)
    import pyarrow as pa
    import pyarrow.compute as pc

    def holds_vectors(kind) -> bool:
        lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
        numbers = (pa.types.is_floating, pa.types.is_integer)
        return any(test(kind) for test in lists) and any(test(kind.value_type) for test in numbers)

    columns = [field.name for field in table.schema if holds_vectors(field.type)]
    if column is None and len(columns) == 1:
        column = columns[0]
    if column not in columns:
        raise ValueError(
            f"{path}: {'no column' if column is None else f'the column {column!r} is none'} of vectors, or several: "
            f"name one of {columns or 'none that holds lists of numbers'} (its columns are {table.column_names})."
        )
    vectors = table.column(column).combine_chunks()
    widths = pc.list_value_length(vectors).to_numpy(zero_copy_only=False).astype(float)
    if not len(widths):
        return ReadyVectors(np.empty((0, 0), dtype=np.float32))
    wrong = np.flatnonzero(widths != widths[0])  # NaN, for a row without a vector, differs from itself
    if len(wrong):
        row = int(np.flatnonzero(np.isnan(widths))[0]) if np.isnan(widths).any() else int(wrong[0])
        count = "no" if np.isnan(widths[row]) else int(widths[row])
        raise ValueError(
            f"{path}, column {column}: row {row} has a vector of {count} numbers, unlike others: embed all items "
            "with one encoder."
        )
    values = vectors.flatten().to_numpy(zero_copy_only=False).reshape(len(widths), int(widths[0]))
    if "id" not in table.column_names:
        return ReadyVectors(values)
    ids = table.column("id").to_pylist()
    if None in ids:
        raise ValueError(f"{path}: row {ids.index(None)} has no id: give each row an id, or leave the column id out.")
    return ReadyVectors(values, list(map(str, ids)))


def _read_faiss(path: Path) -> ReadyVectors:
    try:
        import faiss
    except ImportError as error:
        raise ImportError(f"{path.name} is a FAISS index: `pip install unimur[faiss]`.") from error
    try:
        whole = faiss.read_index(str(path))  # held to the end: what is taken out of it does not own its memory
    except RuntimeError as error:
        raise ValueError(f"{path} is not a FAISS index of vectors: {str(error).strip().splitlines()[-1]}") from error
    index = faiss.downcast_index(whole)
    if not index.ntotal:
        raise ValueError(f"{path} contains no vector: add the items first.")
    metric = {faiss.METRIC_INNER_PRODUCT: "inner_product", faiss.METRIC_L2: "l2"}.get(index.metric_type)
    ids = None
    if isinstance(index, (faiss.IndexIDMap, faiss.IndexIDMap2)):
        ids = list(map(str, faiss.vector_to_array(index.id_map).tolist()))
        index = faiss.downcast_index(index.index)
    try:
        if isinstance(index, faiss.IndexIVF):
            index.make_direct_map()
        values = index.reconstruct_n(0, index.ntotal)
    except RuntimeError as error:
        raise ValueError(
            f"{path} ({type(index).__name__}) cannot give its vectors back: pass the array (.npy) it was built from."
        ) from error
    flat = "Flat" in type(index).__name__
    note = "" if flat else f"{type(index).__name__} does not keep vectors as they were: it gives back near ones."
    return ReadyVectors(values, ids, metric, note)


__all__ = ["ReadyVectors", "load_vectors", "read_table"]
