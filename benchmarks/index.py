"""Searching an index: what ours costs beyond raw FAISS, and how much the approximate ones find.

    python benchmarks/index.py [--quick] [--vectors N] [--parts NAME ...] [--embeddings FILE.npy] [--name RESULT]
                               [--as-they-are] [--recall-only]

The vectors are real embeddings, each jittered: what the small CLIP's text tower makes of WordNet's titles and glosses,
or the rows of a given file; white noise has no neighbours to find (`--quick`: drawn centres). Queries are jittered
vectors of the index. With `--as-they-are` the index holds the real embeddings themselves, once each, but for the
queries, which are drawn from them. `--recall-only` measures no time, so that a busy machine does. Batches
of 1 and 64, ten hits. Parts:

- `exact`: FAISS' Flat; `raw_...` is `search` of `faiss.IndexFlatIP`, rows and scores, `exact_...` is
  `VectorIndex.search`, hits with id and payload; `search_overhead_percent_b1`, `_b64`: what ours costs beyond raw;
- `ann`: the default approximate index, HNSW32; `ivfpq`: IVF4096,PQ48; `ivfpq_whole`: the same, whose best hits are
  ranked again by whole vectors; `ivfsq8`: IVF4096,SQ8, a byte a number; `..._ef_search32_...`, `..._nprobe64_...`:
  with other efforts than the default;
- `milvus`, `milvus_ann`, `milvus_ivfpq`, `milvus_ivfsq8`: Flat, HNSW32, IVF4096,PQ48 and IVF4096,SQ8 in Milvus, a file
  in the process;
- `float32`, `int8`, `binary`: kind `memory` in these precisions, saved and read again; `int8_dim256`, ...: the same of
  the first 256, 128 or 64 numbers of each vector; `sq8`: FAISS' Flat in int8; `binary_rescore_multiplier4_...`: with
  other efforts than the default;
- `hybrid`: what BM25 costs beside the vectors of a `memory` index, whose captions are halves of two of WordNet's
  glosses, by queries of five words of one: `hybrid_overhead_ms`; `hybrid_words_mib` and `hybrid_words_seconds`: what
  the words take in memory and to build.

Of each: `..._microseconds_b1`, `_b64` a query; `..._recall_at_10` among the exact ten; `..._build_seconds`; `..._mib`:
anonymous resident memory that the filled index adds to a process of its own, whose vectors are mapped from a file; for
kinds in memory `..._bytes` and `..._mapped_bytes`: of a vector in memory, and mapped from the index's file.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import faiss
import numpy as np
import psutil

from benchmarks.harness import (
    CONDITIONS,
    ROOT,
    Partial,
    Timings,
    alternate,
    argument_parser,
    in_fresh_process,
    is_busy,
    report,
)
from modeling_unimur.data.cache import cache_dir
from modeling_unimur.index import PRECISIONS, hybrid, open_index
from modeling_unimur.index.faiss import FaissIndex
from modeling_unimur.index.quantized import QuantizedIndex
from modeling_unimur.memory_index import RetrievalIndex, VectorIndex

VECTORS, QUICK_VECTORS, WIDTH = 1_000_000, 20_000, 384
BATCHES = (1, 64)
QUERIES = 512
TOP_K = 10
# Cosine of a vector with its centre is about 0.86, of a query with its vector 0.96.
JITTER, QUERY_JITTER = 0.6, 0.3
_BLOCK = 50_000
# Cells and codes are fitted to as many vectors as FAISS asks for at least, 39 a cell, and some more.
_CELLS, _SAMPLE_PER_CELL = 4096, 48
# As many queries are timed in a round as take this long one by one, at least four batches of them.
_ROUND_SECONDS = 2.0
_HYBRID_QUERIES = 16
# Truncated vectors.
DIMS = (256, 128, 64)


def real_embeddings(file: Path) -> Path:
    """Writes what the small CLIP's text tower makes of WordNet's titles and glosses; those kept are read."""
    from modeling_unimur import UniMuRModel, UniMuRProcessor
    from modeling_unimur.training.frozen_features import FrozenTexts
    from modeling_unimur.training.frozen_towers import frozen_towers
    from modeling_unimur.training.recipes import load_recipe
    from unimur_mini.dialogues import load_glosses

    mini = cache_dir() / "models" / "unimur-mini"
    towers = frozen_towers(
        UniMuRModel.from_pretrained(mini).clip, UniMuRProcessor.from_pretrained(mini).target_tokenizer
    )
    options = load_recipe(ROOT / "recipes" / "unimur_mini.yaml").data.feature_options()
    rows = load_glosses()["train"]
    texts = list(dict.fromkeys(text for row in rows for text in (row["title"], row["gloss"])))
    np.save(file, FrozenTexts(towers.text_tower, towers.encode_texts, options).features(texts).rows.tensor().float())
    return file


def jittered(rows: np.ndarray, amount: float, rng: np.random.Generator) -> np.ndarray:
    """Unit vectors `(rows, width)` near the given ones; `amount` is the length of what is added."""
    noise = rng.standard_normal(rows.shape, dtype=np.float32)
    return _unit(rows + noise * (amount / np.linalg.norm(noise, axis=1, keepdims=True)))


def vectors_like_embeddings(
    count: int, embeddings: Path | None, rng: np.random.Generator, file: Path | None = None
) -> np.ndarray:
    """Unit vectors `(count, width)`, in a mapped file if one is given: jittered embeddings of a matrix (.npy), or
    jittered centres.

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
    memory = psutil.Process().memory_info()
    return (memory.rss - memory.shared) / 2**20


def truncated(vectors: np.ndarray, width: int) -> np.ndarray:
    """The first numbers of each vector, at length 1."""
    return vectors if vectors.shape[1] == width else _unit(vectors[:, :width])


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def recombined_glosses(count: int, seed: int, is_quick: bool) -> tuple[list[str], list[str]]:
    """Captions, the first half of one gloss and the second of another, and queries of five words of a gloss."""
    if is_quick:
        words = [f"word{number}" for number in range(2000)]
        rng = np.random.default_rng(seed)
        glosses = [" ".join(words[min(at, 1999)] for at in rng.zipf(1.3, 12)) for _ in range(500)]
    else:
        from unimur_mini.dialogues import load_glosses

        glosses = [row["gloss"] for row in load_glosses()["train"]]
    halves = [(words[: len(words) // 2], words[len(words) // 2 :]) for words in map(str.split, glosses)]
    rng = np.random.default_rng(seed)
    pairs = rng.integers(len(halves), size=(count, 2)).tolist()
    captions = [" ".join(halves[one][0] + halves[two][1]) for one, two in pairs]
    asked = [glosses[at].split() for at in rng.integers(len(glosses), size=QUERIES).tolist()]
    return captions, [" ".join(rng.permutation(words)[:5]) for words in asked]


def fill(index: VectorIndex, vectors: np.ndarray, captions: list[str] | None = None) -> None:
    """Adds all vectors, with ids and payloads, and fits cells and codes first where the index has any."""
    train = getattr(index, "needs_training", None)
    if train is not None and train("image"):
        chosen = np.sort(np.random.default_rng(0).permutation(len(vectors))[: _SAMPLE_PER_CELL * _CELLS])
        index.train("image", vectors[chosen])
    for first in range(0, len(vectors), _BLOCK):
        part = vectors[first : first + _BLOCK]
        names = [f"image {number}" for number in range(first, first + len(part))]
        payloads: list[dict] = [{"path": f"{name}.png", "licence": "cc0"} for name in names]
        for payload, caption in zip(payloads, captions[first : first + len(part)] if captions else (), strict=False):
            payload["caption"] = caption
        index.add("image", names, truncated(part, index.width), payloads)
    if not isinstance(index, RetrievalIndex):
        index.save()  # Milvus searches what it has flushed


def exact_hits(vectors: np.ndarray, queries: np.ndarray) -> list[list[str]]:
    """Ids of the ten nearest of all vectors, a block of vectors after another."""
    best = faiss.ResultHeap(len(queries), TOP_K, keep_max=True)
    for first in range(0, len(vectors), _BLOCK):
        scores, rows = faiss.knn(queries, vectors[first : first + _BLOCK], TOP_K, faiss.METRIC_INNER_PRODUCT)
        best.add_result(scores, rows + first)
    best.finalize()
    return [[f"image {row}" for row in rows] for rows in best.I.tolist()]


def _batches(queries: np.ndarray, size: int) -> list[np.ndarray]:
    return [queries[start : start + size] for start in range(0, len(queries), size)]


def _time(figures: dict[str, float], searches: dict[str, Callable], queries: np.ndarray, quick: bool) -> None:
    """Adds the microseconds a query of each search, in turn."""
    start = time.perf_counter()
    next(iter(searches.values()))(queries[:1])
    count = int(_ROUND_SECONDS / (time.perf_counter() - start))
    for size in BATCHES:
        batches = _batches(queries[: max(count, 4 * size)], size)
        timings: Timings = alternate(
            {
                name: lambda work=work, batches=batches: [work(batch) for batch in batches]
                for name, work in searches.items()
            },
            quick=quick,
        )
        for name, value in timings.seconds.items():
            figures[f"{name}_microseconds_b{size}"] = 1e6 * value / sum(map(len, batches))


def one_part(name: str, folder: Path, args: argparse.Namespace) -> dict[str, float]:
    """Figures of one part, in this process, with what they were measured under."""
    figures = hybrid_part(folder, args.seed, args.quick) if name == "hybrid" else one_index(name, folder, args)
    return {**figures, **CONDITIONS.figures}


def one_index(name: str, folder: Path, args: argparse.Namespace) -> dict[str, float]:
    """Figures of one index; no times with `--recall-only`."""
    timed = not args.recall_only
    vectors, queries = np.load(folder / "vectors.npy", mmap_mode="r"), np.load(folder / "queries.npy")
    kind, factory, *dims = PARTS[name]
    width = min([*dims, vectors.shape[1]])
    queries = truncated(queries, width)
    if kind == "milvus":
        from modeling_unimur.index.milvus import MilvusIndex
    before, start = own_mib(), time.perf_counter()
    if kind == "faiss":
        index: VectorIndex = FaissIndex(width, "benchmark@1", factory)
    elif kind == "milvus":
        index = MilvusIndex.open(str(folder / f"{name}.db"), width, "benchmark@1", factory)
    else:
        index = open_index(folder / name, width, "benchmark@1", "memory", precision=factory)
    fill(index, vectors)
    if kind == "memory":
        index.save()
        index = open_index(folder / name)
    figures = {f"{name}_build_seconds": time.perf_counter() - start} if timed else {}
    figures[f"{name}_mib"] = own_mib() - before
    searches = {name: lambda batch: index.search(batch, TOP_K, "image")}
    if name == "exact":
        raw = faiss.IndexFlatIP(vectors.shape[1])
        for first in range(0, len(vectors), _BLOCK):
            raw.add(vectors[first : first + _BLOCK])
        searches = {"raw": lambda batch: raw.search(batch, TOP_K), **searches}
    if timed:
        _time(figures, searches, queries, args.quick)
    if timed and name == "exact":
        for size in BATCHES:
            ours, theirs = (figures[f"{which}_microseconds_b{size}"] for which in ("exact", "raw"))
            figures[f"search_overhead_percent_b{size}"] = 100 * (ours / theirs - 1)
    truth = json.loads((folder / "truth.json").read_text(encoding="utf-8"))
    figures[f"{name}_recall_at_10"] = _recall(index, queries, truth)
    if isinstance(index, QuantizedIndex):
        held, mapped = bytes_of(index)
        figures |= {f"{name}_bytes": held / len(vectors), f"{name}_mapped_bytes": mapped / len(vectors)}
    elif kind == "memory":
        figures |= {f"{name}_bytes": 4 * width, f"{name}_mapped_bytes": 0}
    effort, values = EFFORTS.get(name, ("", ()))
    for value in values:
        index.tune(**{effort: value})
        setting = f"{name}_{effort}{value}"
        if timed:
            _time(figures, {setting: searches[name]}, queries, args.quick)
        figures[f"{setting}_recall_at_10"] = _recall(index, queries, truth)
    index.close()
    return figures


def hybrid_part(folder: Path, seed: int, is_quick: bool) -> dict[str, float]:
    """Figures of BM25 beside vectors, in this process."""
    vectors, queries = np.load(folder / "vectors.npy", mmap_mode="r"), np.load(folder / "queries.npy")
    captions, texts = recombined_glosses(len(vectors), seed, is_quick)
    index = RetrievalIndex(vectors.shape[1], "benchmark@1")
    fill(index, vectors, captions)
    start = time.perf_counter()
    words = hybrid.words_of(index)
    figures = {"hybrid_words_seconds": time.perf_counter() - start, "hybrid_words_mib": words.num_bytes / 2**20}
    some = list(zip(queries[:, None], texts, strict=True))[:_HYBRID_QUERIES]
    timings = alternate(
        {
            "vectors": lambda: [index.search(query, TOP_K, "image") for query, _ in some],
            "hybrid": lambda: [hybrid.search(index, query, [text], 0.5, TOP_K, "image") for query, text in some],
        },
        quick=is_quick,
    )
    each = {name: 1000 * seconds / len(some) for name, seconds in timings.seconds.items()}
    figures |= {f"hybrid_{name}_ms": value for name, value in each.items()}
    return figures | {"hybrid_overhead_ms": each["hybrid"] - each["vectors"]}


def bytes_of(index: QuantizedIndex) -> tuple[int, int]:
    """Bytes of an index's vectors in memory, and of those that are mapped from files."""
    parts = index.parts.values()
    blocks = [block for part in parts for block in part.blocks]
    mapped = sum(block.nbytes for block in blocks if isinstance(block, np.memmap))
    beside = sum((part.signs if part.binary else part.lengths).nbytes for part in parts)
    return sum(block.nbytes for block in blocks) - mapped + beside, mapped


def _recall(index: VectorIndex, queries: np.ndarray, truth: list[list[str]]) -> float:
    found = [hits for batch in _batches(queries, BATCHES[-1]) for hits in index.search(batch, TOP_K, "image")]
    shared = [len(set(names) & {hit.id for hit in hits}) for names, hits in zip(truth, found, strict=True)]
    return float(np.mean(shared)) / TOP_K


def run(args: argparse.Namespace) -> dict[str, float]:
    """All figures of one run. Finished parts lie in `runs/` until all are; a killed run goes on from there.

    Parts that a busy machine has measured are not among them.
    """
    rng, count = np.random.default_rng(args.seed), args.vectors or (QUICK_VECTORS if args.quick else VECTORS)
    settings = [args.seed, count, str(args.embeddings), args.as_they_are, args.recall_only]
    partial = Partial(args.name, settings, args.quick)
    figures: dict[str, float] = {"vectors": count}
    with tempfile.TemporaryDirectory() as folder:
        source = args.embeddings
        if source is None and not args.quick:
            source = real_embeddings(Path(folder, "real.npy"))
        if args.as_they_are:
            vectors = _unit(np.load(source).astype(np.float32))[rng.permutation(len(np.load(source, "r")))]
            queries, vectors = vectors[:QUERIES], vectors[QUERIES:]
            np.save(Path(folder, "vectors.npy"), vectors)
            figures["vectors"] = len(vectors)
        else:
            vectors = vectors_like_embeddings(count, source, rng, Path(folder, "vectors.npy"))
            queries = jittered(vectors[np.sort(rng.integers(len(vectors), size=QUERIES))], QUERY_JITTER, rng)
            vectors.flush()
        np.save(Path(folder, "queries.npy"), queries)
        Path(folder, "truth.json").write_text(json.dumps(exact_hits(vectors, queries)), encoding="utf-8")
        for name in args.parts:
            found = partial.parts.get(name)
            if found is None:
                found = in_fresh_process(one_part, name, Path(folder), args)
                print(json.dumps(found), file=sys.stderr, flush=True)
                if not is_busy(found):
                    partial.add(name, found)
            else:
                CONDITIONS.add(found)
            figures.update(found)
    return figures


PARTS = {
    "exact": ("faiss", "Flat"),
    "ann": ("faiss", "HNSW32"),
    "ivfpq": ("faiss", f"IVF{_CELLS},PQ48"),
    "ivfpq_whole": ("faiss", f"IVF{_CELLS},PQ48,RFlat"),
    "ivfsq8": ("faiss", f"IVF{_CELLS},SQ8"),
    "milvus": ("milvus", "Flat"),
    "milvus_ann": ("milvus", "HNSW32"),
    "milvus_ivfpq": ("milvus", f"IVF{_CELLS},PQ48"),
    "milvus_ivfsq8": ("milvus", f"IVF{_CELLS},SQ8"),
    "sq8": ("faiss", "SQ8"),
    **{precision: ("memory", precision) for precision in PRECISIONS},
    **{f"{precision}_dim{dim}": ("memory", precision, dim) for dim in DIMS for precision in PRECISIONS},
    "hybrid": ("memory", None),
}
# Efforts beside the default ones, `ef_search` 48 and `nprobe` 16.
EFFORTS = {
    "ann": ("ef_search", (16, 32, 64, 128)),
    "ivfpq": ("nprobe", (64,)),
    "ivfsq8": ("nprobe", (4, 64)),
    "binary": ("rescore_multiplier", (2, 4, 16, 32)),
}
# Cells need more vectors than a quick run has.
QUICK_PARTS = ("exact", "ann", "milvus", *PRECISIONS, "hybrid")


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--vectors", type=int, help=f"in the index (default {VECTORS:,}; quick: {QUICK_VECTORS:,})")
    parser.add_argument("--embeddings", type=Path, help="real embeddings to jitter, a matrix (.npy)")
    parser.add_argument(
        "--as-they-are", action="store_true", help="the real embeddings themselves, without jitter and one query each"
    )
    parser.add_argument("--recall-only", action="store_true", help="measure no time, so that a busy machine does")
    parser.add_argument("--parts", nargs="+", choices=PARTS, help=f"default: all; quick: {' '.join(QUICK_PARTS)}")
    parser.add_argument("--name", default="index", help="of the file of results")
    args = parser.parse_args()
    args.parts = args.parts or (QUICK_PARTS if args.quick else list(PARTS))
    if args.as_they_are and args.quick and args.embeddings is None:
        parser.error("--as-they-are needs real embeddings: leave --quick out, or name --embeddings")
    source = args.embeddings.name if args.embeddings else "CLIP-T of WordNet's titles and glosses"
    source = source if args.as_they_are else f"jittered {source}"
    core = os.environ.get("OPENBLAS_CORETYPE", "not set")
    notes = [
        f"float32, {faiss.omp_get_max_threads()} threads; vectors: {source}; Milvus: a file in the process",
        f"OPENBLAS_CORETYPE {core}; default ef_search 48, nprobe 16 and rescore_multiplier 8",
        "nothing was timed" if args.recall_only else "minimum of 7 rounds, variants in turn; microseconds a query",
    ]
    report(args.name, args, run(args), notes)
    Partial(args.name, quick=args.quick).remove()


if __name__ == "__main__":
    main()
