"""One way to an index, wherever it is kept."""

from __future__ import annotations

import os
import re

from .vector_index import VectorIndex

_ADDRESS = re.compile(r"(https?|tcp|grpc)://.+|[\w.-]+:\d{1,5}")


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
        uri: a folder (FAISS), a file `*.db` (Milvus in the process), or a Milvus server's or cluster's address:
            `http(s)://host:port`, `tcp://host:port`, `host:port`.
        width: of the vectors. A new index needs it; an existing one must have it.
        model: name and revision of the vectors' model, likewise.
        index: of a new one, in the words of FAISS' `index_factory`: `"Flat"` (exact, the default), `"HNSW32"`,
            `"IVF1024,Flat"`, `"IVF1024,PQ48"`; a folder takes any other of FAISS as well.
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
    if place.endswith(".db") or _ADDRESS.fullmatch(place):
        from .milvus_index import MilvusIndex

        return MilvusIndex.open(place, width, model, index=index, read_only=read_only, **options)
    from .faiss_index import FaissIndex
    from .index_folder import IndexFolder

    folder = IndexFolder(place)
    if folder.current() is not None:
        found = FaissIndex.load(place, width, model, read_only)
        if index is not None and index != found.factory:
            found.close()
            raise ValueError(f"The index in {place} is {found.factory!r}, not {index!r}; build another for that.")
        for name, value in options.items():
            found.tune(**{name: value})
        return found
    if read_only or width is None or model is None:
        raise FileNotFoundError(f"{place} holds no index; to make one, give width and model and open it for writing.")
    made = FaissIndex(width, model, index or "Flat", **options)
    made.keep_in(place)
    return made


__all__ = ["open_index"]
