"""Indexes of texts and images behind one interface: a folder by FAISS, a database file or a cluster by Milvus.

Nothing here imports torch: a service that only searches needs none.
"""

from __future__ import annotations

import os

from ..memory_index import KINDS, MEMORY, Added, Hit, RetrievalIndex, VectorIndex
from .base import is_database
from .folder import IndexFolder


def open_index(
    uri: str | os.PathLike,
    width: int | None = None,
    model: str | None = None,
    index: str | None = None,
    read_only: bool = False,
    **options: object,
) -> VectorIndex:
    """Opens an index, or makes a new one where there is none.

    Args:
        uri: a folder (FAISS, or numpy alone), a file `*.db` (Milvus in the process), or a Milvus server's or
            cluster's address: `http(s)://host:port`, `tcp://host:port`, `host:port`.
        width: of the vectors. A new index needs it; an existing one must have it.
        model: name and revision of the vectors' model, likewise.
        index: of a new one, in the words of FAISS' `index_factory`: `"Flat"` (exact, the default), `"HNSW32"`,
            `"IVF1024,Flat"`, `"IVF1024,SQ8"`, `"IVF1024,PQ48"`; a folder takes any other of FAISS as well, and
            `"memory"`: exact, and searched without FAISS.
        read_only: for searching only. A folder has one writer at a time and any number of readers.
        options: of `FaissIndex` (`ef_search`, `nprobe`) or `MilvusIndex.open` (`collection`, `token`, ...).

    Raises:
        FileNotFoundError: no index there, and no width and model to make one (or `read_only`).
        ValueError: an index of another width, model or kind; a folder with something else.
        BlockingIOError: another writer has it.
        ImportError: FAISS or Milvus is not installed; the message names the extra.
        ConnectionError: no server answers.
    """
    place = os.fspath(uri)
    if is_database(place):
        from .milvus import MilvusIndex

        return MilvusIndex.open(place, width, model, index=index, read_only=read_only, **options)
    about = IndexFolder(place).about()
    if about is None and (read_only or width is None or model is None):
        raise FileNotFoundError(
            f"{place} contains no index; to make one, give width and model and open it for writing."
        )
    kind = index or "Flat" if about is None else about.get("factory")
    if index is not None and index != kind:
        raise ValueError(f"The index in {place} is {kind!r}, not {index!r}; build another for that.")
    if kind == MEMORY:
        if options:
            raise ValueError(f"The index in {place} is searched in memory, and takes no {sorted(options)}.")
        chosen: type = RetrievalIndex
    else:
        from .faiss import FaissIndex as chosen
    if about is None:
        made = chosen(width, model, **({} if kind == MEMORY else {"factory": kind}), **options)
        made.keep_in(place)
        return made
    found = chosen.load(place, width, model, read_only)
    if options:
        found.tune(**options)
    return found


__all__ = ["KINDS", "Added", "Hit", "VectorIndex", "is_database", "open_index"]
