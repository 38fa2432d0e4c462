"""Indexes of texts and pictures behind one interface: a folder by FAISS, a database file or a cluster by Milvus.

Nothing here imports torch: a service that only searches needs none.
"""

from ..vector_index import KINDS, Added, Hit, VectorIndex
from .opening import open_index

__all__ = ["KINDS", "Added", "Hit", "VectorIndex", "open_index"]
