"""The precision of an index's numbers, and the kinds of index that have it."""

from __future__ import annotations

import re

from ..memory_index import MEMORY

# The names of sentence-transformers' `quantize_embeddings`.
PRECISIONS = FLOAT32, INT8, BINARY = ("float32", "int8", "binary")
_INT8_KINDS = (
    (re.compile(r"Flat"), "SQ8"),
    (re.compile(r"(HNSW\d+)(?:,Flat|_SQ8)?"), r"\1_SQ8"),
    (re.compile(r"(IVF\d+)(?:,Flat|,SQ8)?"), r"\1,SQ8"),
    (re.compile(r"SQ8"), "SQ8"),
)


def with_precision(index: str | None, precision: str | None) -> str:
    """The whole description of a new index's kind, such as `"SQ8"` for `"Flat"` in int8. Without an `index` it is
    `"memory"` for binary and `"Flat"` otherwise.

    Raises:
        ValueError: an unknown precision, or one that this kind has not.
    """
    kind = index or (MEMORY if precision == BINARY else "Flat")
    if precision not in (None, *PRECISIONS):
        raise ValueError(f"precision must be one of {PRECISIONS}, got {precision!r:.60}.")
    if precision is None or precision == precision_of(kind):
        return kind
    if kind == MEMORY:
        return f"{MEMORY},{precision}"
    for form, found in _INT8_KINDS if precision == INT8 else ():
        if match := form.fullmatch(kind):
            return match.expand(found)
    raise ValueError(
        f"An index of kind {kind!r} has no precision={precision!r}: kind {MEMORY!r} has every one, and 'Flat', "
        f"'HNSW32' and 'IVF1024,Flat' (any numbers) have {INT8!r}."
    )


def precision_of(kind: object) -> str | None:
    """The precision that a kind of index holds vectors in; None for other codes."""
    kind = str(kind)
    base, _, precision = kind.partition(",")
    if base == MEMORY:
        return precision or FLOAT32
    if "SQ8" in kind:
        return INT8
    return None if re.search(r"PQ|SQ|RaBitQ|LSH", kind) else FLOAT32


def is_quantized(kind: object) -> bool:
    """Whether a kind is that of an index in memory of small vectors."""
    return isinstance(kind, str) and kind.startswith(f"{MEMORY},")


def require_kind(place: object, held: str, index: str | None, precision: str | None) -> None:
    """Raises ValueError where the index in a place is of another kind or precision than asked for."""
    if index is not None and not _agrees(held, index):
        raise ValueError(f"The index in {place} is {held!r}, not {index!r}; build another for that.")
    if precision not in (None, precision_of(held)):
        raise ValueError(
            f"The index in {place} holds vectors in {precision_of(held)}, not in {precision}; build another for that."
        )


def _agrees(held: str, index: str) -> bool:
    try:
        return with_precision(index, precision_of(held)) == held
    except ValueError:
        return False
