"""Mining hard negatives: what it costs beyond FAISS, for a million documents, and for the whole GIMP manual.

    python benchmarks/mining.py [--quick] [--vectors N] [--queries N] [--no-manual]

The documents are random unit vectors, every third one an image; each query has three right documents.

- `faiss_seconds`: an `IndexFlatIP` of all vectors, the best 100 of each query, the right ones struck out of the
  numbers (the released script); `mining_seconds`: `mine_vectors`, which ranks by torch, a block of vectors at a
  time, compares the best 100 with the right ones by number, words, group and cosine, and parts them by kind;
- `mining_over_faiss`: the second over the first; `mining_over_search`: over FAISS' search alone;
- `mining_mib`: peak memory that `mine_vectors` adds to a process that holds the vectors;
- `manual_seconds`, `manual_queries`, `manual_documents`, `manual_negatives`: mining for the manual's training queries
  by the small dual encoder before any training, from texts and kept image features to the lists.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import faiss
import numpy as np
import torch

from benchmarks.harness import (
    LONG_ROUNDS,
    alternate,
    argument_parser,
    in_fresh_process,
    peak_mib,
    random_unit_vectors,
    report,
    reset_peak,
    watched,
)
from modeling_unimur.data.cache import cache_dir
from modeling_unimur.training.mining import MiningOptions, mine_rows, mine_vectors

VECTORS, QUICK_VECTORS, WIDTH = 1_000_000, 20_000, 384
QUERIES, QUICK_QUERIES = 4096, 512
DEPTH, RIGHT = 100, 3


def by_faiss(queries: np.ndarray, vectors: np.ndarray, known: list) -> tuple[list, float]:
    """The released script's work: lists of numbers, and the seconds that the search took."""
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    start = time.perf_counter()
    _, numbers = index.search(queries, DEPTH)
    seconds = time.perf_counter() - start
    return [[n for n in row if n not in own] for row, own in zip(numbers.tolist(), known, strict=True)], seconds


def random_figures(vectors: int, queries: int, seed: int, is_quick: bool) -> dict[str, float]:
    """Figures of random vectors, in this process."""
    rng = np.random.default_rng(seed)
    rows, asked = random_unit_vectors(rng, vectors, WIDTH), random_unit_vectors(rng, queries, WIDTH)
    kinds = ["image" if number % 3 == 0 else "text" for number in range(vectors)]
    right = rng.integers(vectors, size=(queries, RIGHT)).tolist()
    options = MiningOptions(depth=DEPTH, max_similarity=0.95)
    documents, questions = torch.from_numpy(rows), torch.from_numpy(asked)
    reset_peak()
    before = peak_mib()
    mined = mine_vectors(questions, documents, kinds, right, options)
    mib = peak_mib() - before
    listed, searched = by_faiss(asked, rows, [frozenset(row) for row in right])
    found = [sorted(row["image"] + row["text"]) for row in mined]
    differing = sum(one != sorted(other) for one, other in zip(found, listed, strict=True))
    if differing > queries // 100:  # of equal scores at rank 100 either may be taken
        raise RuntimeError(f"For {differing} of {queries} queries mining and FAISS differ.")
    timings = alternate(
        {
            "faiss": lambda: by_faiss(asked, rows, [frozenset(row) for row in right]),
            "mining": lambda: mine_vectors(questions, documents, kinds, right, options),
        },
        LONG_ROUNDS,
        quick=is_quick,
    )
    seconds = timings.seconds
    return {
        "vectors": vectors,
        "queries": queries,
        **{f"{name}_seconds": value for name, value in seconds.items()},
        "mining_over_faiss": seconds["mining"] / seconds["faiss"],
        "mining_over_search": seconds["mining"] / searched,
        "mining_mib": mib,
    }


def manual_figures() -> dict[str, float]:
    """Mining for the manual's training queries."""
    from modeling_unimur import UniVLDRModel, UniVLDRProcessor
    from modeling_unimur.data.registry import load_retrieval_set
    from modeling_unimur.training.documents import Documents, PooledImages
    from modeling_unimur.training.query_rows import QueryRows

    source = str(cache_dir() / "models" / "clip-lite2-minilm")
    model = UniVLDRModel.from_backbones(source, image_weight=0.1)
    processor = UniVLDRProcessor.from_backbones(source, max_target_tokens=64)
    retrieval = load_retrieval_set("gimp_manual")
    documents = Documents(retrieval)
    pooled = PooledImages(model, processor, documents.images)
    rows = QueryRows(retrieval, documents)
    with watched():
        start = time.perf_counter()
        mined = mine_rows(model, processor, rows, documents, pooled)
        seconds = time.perf_counter() - start
    return {
        "manual_seconds": seconds,
        "manual_queries": len(mined),
        "manual_documents": len(documents),
        "manual_negatives": sum(len(images) + len(texts) for images, texts in mined.values()),
    }


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--vectors", type=int, help=f"documents (default {VECTORS:,}; quick: {QUICK_VECTORS:,})")
    parser.add_argument("--queries", type=int, help=f"(default {QUERIES:,}; quick: {QUICK_QUERIES:,})")
    parser.add_argument("--no-manual", action="store_true", help="random vectors alone; so does --quick")
    args = parser.parse_args()
    vectors = args.vectors or (QUICK_VECTORS if args.quick else VECTORS)
    queries = args.queries or (QUICK_QUERIES if args.quick else QUERIES)
    figures = in_fresh_process(random_figures, vectors, queries, args.seed, args.quick)
    if not (args.quick or args.no_manual):
        figures |= in_fresh_process(manual_figures)
    notes = [f"float32, {WIDTH} wide, {faiss.omp_get_max_threads()} threads; minimum of {LONG_ROUNDS} rounds in turn"]
    report("mining", args, figures, notes)


if __name__ == "__main__":
    main()
