"""What coherent replies cost, at 100,000 candidates in each kind of index.

    python benchmarks/coherent_reply.py [--quick] [--candidates N] [--indexes NAME ...]

Half of the candidates are texts, half images: jittered vectors of the release's width with ids and payloads. In turn,
without and with `coherent=True`, five hits of each kind, float32:

- `INDEX_call_plain_ms`, `INDEX_call_coherent_ms`: the whole call of the pipeline on one dialogue, the model included;
- `INDEX_rank_...`, `INDEX_rank_..._b8`: `rank` alone, for one embedded dialogue and, a dialogue, for eight together;
- `INDEX_pair_ms`: `rank(..., modality="pair")` for one;
- `INDEX_call_over_plain`, `INDEX_rank_over_plain`, `INDEX_rank_over_plain_b8`: the ratios.

`memory`, `flat`, `hnsw` (HNSW32), `ivf` (IVF256,SQ8) and `milvus` (Flat, a file in the process).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from benchmarks.harness import alternate, argument_parser, report
from benchmarks.index import JITTER, jittered
from modeling_unimur.cli.retriever import open_retriever
from modeling_unimur.index import open_index
from modeling_unimur.memory_index import KINDS, VectorIndex
from unimur_mini.demo.inputs import EXAMPLE_DIALOGUES, read_dialogues

CANDIDATES, QUICK_CANDIDATES = 100_000, 4_000
INDEXES = {"memory": "memory", "flat": "Flat", "hnsw": "HNSW32", "ivf": "IVF256,SQ8", "milvus": "Flat"}
BATCH = 8
_BLOCK, _CENTRES = 10_000, 1_000


def fill(index: VectorIndex, count: int, seed: int) -> None:
    """Adds texts and images around the same centres, `count` in all."""
    rng = np.random.default_rng(seed)
    centres = jittered(np.zeros((_CENTRES, index.width), np.float32), 1.0, rng)
    for kind in KINDS:
        for first in range(0, count // 2, _BLOCK):
            rows = centres[rng.integers(_CENTRES, size=min(_BLOCK, count // 2 - first))]
            names = [f"{kind} {number}" for number in range(first, first + len(rows))]
            payloads = [{kind: name, "licence": "cc0"} for name in names]
            index.add(kind, names, jittered(rows, JITTER, rng), payloads)
    index.save()


def one_index(retriever, name: str, dialogue: list[dict], args: argparse.Namespace) -> dict[str, float]:
    """Figures of one kind of index."""
    width, model = retriever.model.config.embedding_width, retriever.space
    vectors = retriever.embed(dialogue)
    rng = np.random.default_rng(args.seed)
    together = torch.from_numpy(jittered(np.repeat(vectors.numpy(), BATCH, axis=0), JITTER, rng))
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, "items.db" if name == "milvus" else "index")
        with open_index(place, width, model, index=INDEXES[name]) as index:
            fill(index, args.candidates, args.seed)
            retriever.load_index(index)
            variants = {"pair": lambda: retriever.rank(vectors, modality="pair")}
            for title, coherent in (("plain", False), ("coherent", True)):
                options = {"coherent": coherent}
                variants[f"call_{title}"] = lambda o=options: retriever(dialogue, **o)
                variants[f"rank_{title}"] = lambda o=options: retriever.rank(vectors, **o)
                variants[f"rank_{title}_b8"] = lambda o=options: retriever.rank(together, **o)
            timings = alternate(variants, reference="call_plain", retries=1, quick=args.quick)
    seconds, figures = timings.seconds, {}
    for title, value in seconds.items():
        part, suffix = (title.removesuffix("_b8"), "_b8") if title.endswith("_b8") else (title, "")
        figures[f"{name}_{part}_ms{suffix}"] = 1000 * value / (BATCH if suffix else 1)
    for part, suffix in (("call", ""), ("rank", ""), ("rank", "_b8")):
        ratio = seconds[f"{part}_coherent{suffix}"] / seconds[f"{part}_plain{suffix}"]
        figures[f"{name}_{part}_over_plain{suffix}"] = ratio
    return figures


def main() -> None:
    parser = argument_parser(__doc__, "unimur-mini")
    parser.add_argument("--dialogues", type=Path, default=EXAMPLE_DIALOGUES)
    parser.add_argument("--candidates", type=int, help=f"default: {CANDIDATES:,}")
    parser.add_argument("--indexes", nargs="+", choices=INDEXES, default=list(INDEXES), help="default: all")
    args = parser.parse_args()
    args.candidates = args.candidates or (QUICK_CANDIDATES if args.quick else CANDIDATES)
    retriever = open_retriever(args.model)
    if retriever.chats is not None:
        retriever.chats.max_bytes = 0  # the same dialogue many times over would be read once
    dialogue = next(d for d in read_dialogues(args.dialogues) if not d.images).messages
    figures: dict[str, float] = {"candidates": args.candidates}
    for name in args.indexes:
        figures.update(one_index(retriever, name, dialogue, args))
    notes = ["float32; minimum of 7 rounds, variants in turn; five hits of each kind"]
    report("coherent_reply", args, figures, notes)


if __name__ == "__main__":
    main()
