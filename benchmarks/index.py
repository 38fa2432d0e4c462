"""Searching an index: what ours costs beyond raw FAISS, and how much the approximate one finds.

    python benchmarks/index.py [--quick] [--vectors N] [--embeddings FILE.npy]

The vectors look like embeddings: given ones (`--embeddings`, unit rows), or else drawn centres, each jittered; white
noise has no neighbours to find. Queries are jittered vectors of the index. Batches of 1 and 64, ten hits:

- `raw`: `search` of `faiss.IndexFlatIP`, rows and scores; `ours`: `VectorIndex.search`, hits with id and payload;
- `search_overhead_percent_b1`, `_b64`: what ours costs beyond raw, over raw;
- `ann_recall_at_10`: hits of the default approximate index among the exact ten; `ann_microseconds_b1`, `_b64`: a query
  of it;
- `exact_build_seconds`, `ann_build_seconds`; `exact_mib`, `ann_mib`: anonymous resident memory that the filled index
  adds to a process of its own, whose vectors are mapped from a file: vectors, links, ids and payloads of the index.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import faiss
import numpy as np

from benchmarks.harness import Timings, alternate, argument_parser, in_fresh_process, report
from modeling_unimur.retrieval.faiss_index import APPROXIMATE, FaissIndex

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


def vectors_like_embeddings(
    count: int, embeddings: Path | None, rng: np.random.Generator, file: Path | None = None
) -> np.ndarray:
    """Unit vectors `(count, width)`: jittered embeddings of a file, or jittered centres.

    Args:
        count: of them.
        embeddings: a matrix (.npy).
        rng: draws.
        file: where they are made, to be mapped; in memory by default.

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
    shape = (count, centres.shape[1])
    made = np.empty(shape, np.float32) if file is None else np.lib.format.open_memmap(file, "w+", np.float32, shape)
    for start in range(0, count, _BLOCK):
        part = made[start : start + _BLOCK]
        part[:] = jittered(centres[rng.integers(len(centres), size=len(part))], JITTER, rng)
    return made


def own_mib() -> float:
    """Anonymous resident memory of this process in MiB, after what was freed has been given back (Linux)."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def filled(factory: str, vectors: np.ndarray) -> tuple[FaissIndex, float, float]:
    """An index of the vectors, the seconds that it took, and the MiB that it adds."""
    before, start = own_mib(), time.perf_counter()
    index = FaissIndex(vectors.shape[1], "benchmark@1", factory)
    for first in range(0, len(vectors), _BLOCK):
        part = vectors[first : first + _BLOCK]
        names = [f"picture {number}" for number in range(first, first + len(part))]
        index.add("image", names, part, [{"path": f"{name}.png", "licence": "cc0"} for name in names])
    seconds = time.perf_counter() - start
    return index, seconds, own_mib() - before


def _count_busy(figures: dict[str, float], timings: Timings) -> None:
    figures["reference_spread"] = max(figures.get("reference_spread", 0.0), timings.spread)
    figures["busy_retries"] = figures.get("busy_retries", 0) + timings.retries


def _batches(queries: np.ndarray, size: int) -> list[np.ndarray]:
    return [queries[start : start + size] for start in range(0, len(queries), size)]


def exact_figures(vectors: np.ndarray, queries: np.ndarray, quick: dict, truth: Path) -> dict[str, float]:
    """The exact index beside raw FAISS; the ids of its hits are written to `truth`."""
    exact, seconds, mib = filled("Flat", vectors)
    figures: dict[str, float] = {"vectors": len(vectors), "exact_build_seconds": seconds, "exact_mib": mib}
    raw = faiss.IndexFlatIP(vectors.shape[1])
    for start in range(0, len(vectors), _BLOCK):
        raw.add(vectors[start : start + _BLOCK])
    for size in BATCHES:
        batches = _batches(queries[: 8 * size], size)
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
    found = [[hit.id for hit in hits] for hits in exact.search(queries, TOP_K, "image")]
    truth.write_text(json.dumps(found), encoding="utf-8")
    return figures


def approximate_figures(vectors: np.ndarray, queries: np.ndarray, quick: dict, truth: Path) -> dict[str, float]:
    """The default approximate index against what `exact_figures` found."""
    figures: dict[str, float] = {}
    index, figures["ann_build_seconds"], figures["ann_mib"] = filled(APPROXIMATE, vectors)
    found = index.search(queries, TOP_K, "image")
    exact = json.loads(truth.read_text(encoding="utf-8"))
    shared = [len(set(names) & {hit.id for hit in hits}) for names, hits in zip(exact, found, strict=True)]
    figures["ann_recall_at_10"] = float(np.mean(shared)) / TOP_K
    for size in BATCHES:
        batches = _batches(queries, size)
        work = {"ann": lambda batches=batches: [index.search(batch, TOP_K, "image") for batch in batches]}
        timings = alternate(work, **quick)
        _count_busy(figures, timings)
        figures[f"ann_microseconds_b{size}"] = 1e6 * timings.seconds["ann"] / len(queries)
    return figures


_PARTS = {"exact": exact_figures, "approximate": approximate_figures}


def one_part(name: str, folder: Path, is_quick: bool) -> dict[str, float]:
    """Figures of one index, in this process."""
    vectors = np.load(folder / "vectors.npy", mmap_mode="r")
    quick = {"retries": 1, "pause_seconds": 1} if is_quick else {}
    return _PARTS[name](vectors, np.load(folder / "queries.npy"), quick, folder / "truth.json")


def run(args: argparse.Namespace) -> dict[str, float]:
    """All figures of one run."""
    rng, count = np.random.default_rng(args.seed), args.vectors or (QUICK_VECTORS if args.quick else VECTORS)
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        vectors = vectors_like_embeddings(count, args.embeddings, rng, Path(folder, "vectors.npy"))
        queries = jittered(vectors[rng.integers(len(vectors), size=QUERIES)], QUERY_JITTER, rng)
        np.save(Path(folder, "queries.npy"), queries)
        vectors.flush()
        for name in _PARTS:
            words = [__file__, "--part", name, "--folder", folder, *(["--quick"] if args.quick else [])]
            found = in_fresh_process(words)
            found["reference_spread"] = max(found["reference_spread"], figures.get("reference_spread", 0.0))
            found["busy_retries"] += figures.get("busy_retries", 0)
            figures.update(found)
    return figures


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--vectors", type=int, help=f"in the index (default {VECTORS:,}; quick: {QUICK_VECTORS:,})")
    parser.add_argument("--embeddings", type=Path, help="real embeddings to jitter, a matrix (.npy)")
    parser.add_argument("--part", choices=_PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part is not None:
        print(json.dumps(one_part(args.part, args.folder, args.quick)), flush=True)
        return
    source = args.embeddings.name if args.embeddings else "drawn centres"
    notes = [
        f"float32, {faiss.omp_get_max_threads()} threads; vectors: jittered {source}; approximate: {APPROXIMATE}",
        "minimum of 7 rounds, variants in turn; microseconds a query",
    ]
    report("index", args, run(args), notes)


if __name__ == "__main__":
    main()
