"""Indexes of texts and images behind one interface: folders by FAISS, and databases (Milvus, Qdrant, LanceDB).

Nothing here imports torch: a service that only searches needs none.
"""

from __future__ import annotations

import os

from ..memory_index import KINDS, MEMORY, Added, Hit, RetrievalIndex, VectorIndex
from .base import database_of, is_database
from .folder import keep_in
from .precision import PRECISIONS, is_quantized, precision_of, require_kind, with_precision
from .versions import about_index


def open_index(
    uri: str | os.PathLike,
    width: int | None = None,
    model: str | None = None,
    index: str | None = None,
    read_only: bool = False,
    precision: str | None = None,
    **options: object,
) -> VectorIndex:
    """Opens an index, or makes a new one where there is none.

    Args:
        uri: a folder (FAISS, or numpy alone), a file `*.db` (Milvus in the process), or a Milvus server's or
            cluster's address: `http(s)://host:port`, `tcp://host:port`, `host:port`. Before the place of another
            database stands its name: `qdrant+FOLDER`, `qdrant+http://host:port`, `lancedb+FOLDER`,
            `lancedb+s3://bucket/path`.
        width: of the vectors. A new index needs it; an existing one must have it.
        model: name and revision of the vectors' model, likewise.
        index: of a new one, in the words of FAISS' `index_factory`: `"Flat"` (exact, the default), `"HNSW32"`,
            `"IVF1024,Flat"`, `"IVF1024,SQ8"`, `"IVF1024,PQ48"`; a folder takes any other of FAISS as well, and
            `"memory"`: exact, and searched without FAISS. Qdrant has `"Flat"` and `"HNSW32"`.
        read_only: for searching only. A folder has one writer at a time and any number of readers.
        precision: of the numbers of a new index, `"float32"` (the default), `"int8"` or `"binary"`; an existing one
            must have it. `"memory"` takes all of them, FAISS and Milvus `"int8"` where they have such a kind.
        options: of `FaissIndex` (`ef_search`, `nprobe`), `QuantizedIndex` (`rescore_multiplier`), `MilvusIndex`,
            `QdrantIndex` or `LanceDBIndex` (`collection`, `token`, ...).

    Raises:
        FileNotFoundError: no index there, and no width and model to make one (or `read_only`).
        ValueError: an index of another width, model, kind or precision; a folder with something else; a precision
            that the kind of index has not.
        BlockingIOError: another writer has it.
        ImportError: FAISS or the database's client is not installed; the message names the extra.
        ConnectionError: no server answers.
    """
    place = os.fspath(uri)
    if (database := database_of(place)) is not None:
        if database[0] == "qdrant":
            from .qdrant import QdrantIndex as Index
        elif database[0] == "lancedb":
            from .lancedb import LanceDBIndex as Index
        else:
            from .milvus import MilvusIndex as Index
        return Index.open(place, width, model, index=index, read_only=read_only, precision=precision, **options)
    about = about_index(place)
    if about is None and (read_only or width is None or model is None):
        raise FileNotFoundError(
            f"{place} contains no index; to make one, give width and model and open it for writing."
        )
    kind = with_precision(index, precision) if about is None else about.get("factory")
    if about is not None:
        require_kind(place, kind, index, precision)
    if kind == MEMORY:
        if options:
            raise ValueError(f"The index in {place} is searched in memory, and takes no {sorted(options)}.")
        chosen: type = RetrievalIndex
    elif is_quantized(kind):
        from .quantized import QuantizedIndex as chosen
    else:
        from .faiss import FaissIndex as chosen
    if about is None:
        if kind != MEMORY:
            options |= {"precision": precision_of(kind)} if is_quantized(kind) else {"factory": kind}
        made = chosen(width, model, **options)
        keep_in(made, place)
        return made
    found = chosen.load(place, width, model, read_only)
    if options:
        found.tune(**options)
    return found


__all__ = ["KINDS", "PRECISIONS", "Added", "Hit", "VectorIndex", "is_database", "open_index"]
