"""Searching an index: what ours costs beyond raw FAISS, and how much the approximate one finds.

    python benchmarks/index.py [--quick] [--vectors N] [--embeddings FILE.npy]

The vectors look like embeddings: given ones (`--embeddings`, unit rows), or else drawn centres, each jittered; white
noise has no neighbours to find. Queries are jittered vectors of the index. Batches of 1 and 64, ten hits:

- `raw`: `search` of `faiss.IndexFlatIP`, rows and scores; `ours`: `VectorIndex.search`, hits with id and payload;
- `search_overhead_percent_b1`, `_b64`: what ours costs beyond raw, over raw;
- `ann_recall_at_10`: hits of the default approximate index among the exact ten; `ann_microseconds_b1`, `_b64`: a query
  of it; `ann_build_seconds`, `ann_mib`: building it, and what the process grew by; `exact_mib` likewise.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import faiss
import numpy as np

from benchmarks.harness import Timings, alternate, argument_parser, available_mib, report
from modeling_unimur.retrieval.faiss_index import APPROXIMATE, FaissIndex
from modeling_unimur.retrieval import Hit

VECTORS, QUICK_VECTORS, WIDTH = 1_000_000, 20_000, 384
BATCHES = (1, 64)
QUERIES = 512
TOP_K = 10
# Cosine of a vector with its centre is about 0.86, of a query with its vector 0.96.
JITTER, QUERY_JITTER = 0.6, 0.3
_BLOCK = 50_000


def jittered(rows: np.ndarray, amount: float, rng: np.random.Generator) -> np.ndarray:
    """Unit vectors `(rows, width)` near the given ones; `amount` is the length of what is added."""
    noise = rng.standard_normal(rows.shape, dtype=np.float32)
    moved = rows + noise * (amount / np.linalg.norm(noise, axis=1, keepdims=True))
    return moved / np.linalg.norm(moved, axis=1, keepdims=True)


def vectors_like_embeddings(count: int, embeddings: Path | None, rng: np.random.Generator) -> np.ndarray:
    """Unit vectors `(count, width)`: jittered embeddings of a file, or jittered centres.

    Raises:
        ValueError: a file without rows of numbers.
    """
    if embeddings is None:
        centres = rng.standard_normal((max(count // 100, 10), WIDTH), dtype=np.float32)
    else:
        centres = np.load(embeddings).astype(np.float32)
        if centres.ndim != 2 or not len(centres):
            raise ValueError(f"{embeddings} holds no matrix of embeddings.")
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    made = np.empty((count, centres.shape[1]), np.float32)
    for start in range(0, count, _BLOCK):
        part = made[start : start + _BLOCK]
        part[:] = jittered(centres[rng.integers(len(centres), size=len(part))], JITTER, rng)
    return made


def filled(factory: str, vectors: np.ndarray) -> tuple[FaissIndex, float, float]:
    """An index of the vectors, the seconds that it took, and the MiB."""
    before, start = available_mib(), time.perf_counter()
    index = FaissIndex(vectors.shape[1], "benchmark@1", factory)
    for first in range(0, len(vectors), _BLOCK):
        part = vectors[first : first + _BLOCK]
        names = [f"picture {number}" for number in range(first, first + len(part))]
        index.add("image", names, part, [{"path": f"{name}.png", "licence": "cc0"} for name in names])
    return index, time.perf_counter() - start, before - available_mib()


def _count_busy(figures: dict[str, float], timings: Timings) -> None:
    figures["reference_spread"] = max(figures.get("reference_spread", 0.0), timings.spread)
    figures["busy_retries"] = figures.get("busy_retries", 0) + timings.retries


def exact_figures(vectors: np.ndarray, queries: np.ndarray, quick: dict) -> tuple[dict[str, float], list[list[Hit]]]:
    """The exact index beside raw FAISS, and its hits of all queries."""
    exact, seconds, mib = filled("Flat", vectors)
    figures: dict[str, float] = {"vectors": len(vectors), "exact_build_seconds": seconds, "exact_mib": mib}
    raw = faiss.IndexFlatIP(vectors.shape[1])
    raw.add(vectors)
    for size in BATCHES:
        batches = [queries[start : start + size] for start in range(0, min(QUERIES, 8 * size), size)]
        timings = alternate(
            {
                "raw": lambda batches=batches: [raw.search(batch, TOP_K) for batch in batches],
                "ours": lambda batches=batches: [exact.search(batch, TOP_K, "image") for batch in batches],
            },
            **quick,
        )
        _count_busy(figures, timings)
        for name, value in timings.seconds.items():
            figures[f"{name}_microseconds_b{size}"] = 1e6 * value / (size * len(batches))
        figures[f"search_overhead_percent_b{size}"] = 100 * (timings.seconds["ours"] / timings.seconds["raw"] - 1)
    return figures, exact.search(queries, TOP_K, "image")


def run(args: argparse.Namespace) -> dict[str, float]:
    """All figures of one run."""
    rng = np.random.default_rng(args.seed)
    vectors = vectors_like_embeddings(args.vectors or (QUICK_VECTORS if args.quick else VECTORS), args.embeddings, rng)
    queries = jittered(vectors[rng.integers(len(vectors), size=QUERIES)], QUERY_JITTER, rng)
    quick = {"retries": 1, "pause_seconds": 1} if args.quick else {}
    figures, truth = exact_figures(vectors, queries, quick)
    index, figures["ann_build_seconds"], figures["ann_mib"] = filled(APPROXIMATE, vectors)
    found = index.search(queries, TOP_K, "image")
    shared = [len({hit.id for hit in a} & {hit.id for hit in b}) for a, b in zip(truth, found, strict=True)]
    figures["ann_recall_at_10"] = float(np.mean(shared)) / TOP_K
    for size in BATCHES:
        batches = [queries[start : start + size] for start in range(0, QUERIES, size)]
        work = {"ann": lambda batches=batches: [index.search(batch, TOP_K, "image") for batch in batches]}
        timings = alternate(work, **quick)
        _count_busy(figures, timings)
        figures[f"ann_microseconds_b{size}"] = 1e6 * timings.seconds["ann"] / QUERIES
    return figures


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--vectors", type=int, help=f"in the index (default {VECTORS:,}; quick: {QUICK_VECTORS:,})")
    parser.add_argument("--embeddings", type=Path, help="real embeddings to jitter, a matrix (.npy)")
    args = parser.parse_args()
    source = args.embeddings.name if args.embeddings else "drawn centres"
    notes = [
        f"float32, {faiss.omp_get_max_threads()} threads; vectors: jittered {source}; approximate: {APPROXIMATE}",
        "minimum of 7 rounds, variants in turn; microseconds a query",
    ]
    report("index", args, run(args), notes)


if __name__ == "__main__":
    main()
