"""How far an approximate index looks, where nobody says otherwise: the same in a folder and in Milvus."""

# By benchmarks/index.py on a million vectors: recall 0.98 in HNSW32, 0.99 in IVF4096,SQ8.
EF_SEARCH = 48
NPROBE = 16

__all__ = ["EF_SEARCH", "NPROBE"]
