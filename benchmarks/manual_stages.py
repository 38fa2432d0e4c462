"""The stages of a search in manuals: its parts, hybrid, oracle of the modality, second stage; by UniVL-DR-mini.

    python benchmarks/manual_stages.py --reranker MODEL [--corpora SET ...] [--bf16] [--captions]

Each corpus is one ranking of passages and images, asked by the test questions; grade 2, the section or image meant,
counts. Rows: `bm25`; `dense`, the release; `joined`, BM25 for texts and the release for images (divide and conquer);
`joined_oracle` and `dense_oracle`, the same two with an oracle of the modality; `hybrid`; `context` and
`context_hybrid`, both with images that have a share of the passages of their section; `second_stage`, the first 20 of
the latter in the reranker's order; `weighted`, by the sum of both scores. One weight of BM25, and one of the context,
serve all corpora: those with the best mean MRR@10 over the corpora's validation questions. The weight of the second
stage is chosen for each corpus.

- `weight`, `context_weight`, `context_hybrid_weight`: of BM25 alone, of the context, and of BM25 beside it;

- `CORPUS_ROW`: MRR@10 in percent, with `_low` and `_high`, the 95 % interval by the bootstrap over questions;
- `CORPUS_ROW_images`: percentage of images among the first ten; `CORPUS_relevant_images`: among the relevant;
- `CORPUS_ROW_over_OTHER`: paired differences; `CORPUS_within`: percentage of questions with an answer among the 20.

The quick run has eleven texts with random vectors, and a reranker that counts common letters.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from benchmarks.harness import argument_parser, interval_figures, report
from benchmarks.ladder_rows import RERANK_TOP_K, SECOND, WEIGHTED, Rows, second_stages
from benchmarks.manuals import CORPORA, LEAST_SCORE, RELEASE, RandomEncoder, encoders, quick_set
from modeling_unimur.data.registry import load_retrieval_set
from modeling_unimur.data.retrieval_set import RetrievalSet
from modeling_unimur.evaluation.systems.base import BOTH
from modeling_unimur.evaluation.universal import (
    DualEncoder,
    Hybrid,
    RetrievalTask,
    Space,
    choose_weights,
    ranked,
    with_bm25,
)
from modeling_unimur.index.second_stage import Reranker, open_reranker

PAIRS = (
    ("hybrid", "bm25"), ("hybrid", "dense"), ("hybrid", "joined"), ("context_hybrid", "bm25"),
    ("context_hybrid", "dense"), ("context_hybrid", "context"), ("context_hybrid", "hybrid"),
    ("second_stage", "context_hybrid"), ("weighted", "context_hybrid"),
)  # fmt: skip


class CommonLetters:
    """Stands for a reranker in the quick run."""

    skipped: Counter = Counter()

    def scores(self, pairs) -> np.ndarray:
        """Shares of letters that a query and a text have in common."""
        letters = [(set(query), set(candidate.words)) for query, candidate in pairs]
        return np.array([len(ours & theirs) / max(len(ours | theirs), 1) for ours, theirs in letters])


def space_of(retrieval: RetrievalSet, encoder: DualEncoder) -> Space:
    """A corpus with its test and validation questions."""
    return Space(encoder, *(RetrievalTask.from_set(retrieval, split, LEAST_SCORE) for split in ("test", "validation")))


def measure(corpus: str, space: Space, weights: dict[str, float], reranker: Reranker) -> dict[str, float]:
    """All figures of one corpus."""
    task, beside = space.task, weights["context_hybrid_weight"]
    names = ("bm25", "joined", "joined_oracle", "dense_oracle")
    systems = {"dense": space.system(), **dict(zip(names, with_bm25("dense", space)[0].values(), strict=False))}
    systems["hybrid"] = Hybrid(systems["dense"], systems["bm25"], weights["weight"])
    placed = space.in_context(weights["context_weight"])
    systems |= {"context": placed.system(), "context_hybrid": Hybrid(placed.system(), systems["bm25"], beside)}
    stages, choice = second_stages(placed, systems["context_hybrid"], beside, reranker)
    systems |= {"second_stage": stages[SECOND], "weighted": stages[WEIGHTED]}
    rows, figures = Rows(task), {"questions": len(task.query_ids)}
    for name, system in systems.items():
        rows.add(name, system, (BOTH,))
        shares = rows.shares(name)["all"]
        figures |= interval_figures(name, rows.found.interval(name, f"{BOTH} mrr@10"))
        figures |= {f"{name}_images": shares["returned"], "relevant_images": shares["relevant"]}
    for ours, theirs in PAIRS:
        figures |= interval_figures(f"{ours}_over_{theirs}", rows.difference(ours, theirs))
    asked, relevance = task.within(BOTH)
    first = ranked(systems["context_hybrid"], task, BOTH, asked, RERANK_TOP_K).tolist()
    answered = [not grades.keys().isdisjoint(found) for grades, found in zip(relevance, first, strict=True)]
    figures |= {"within": 100 * float(np.mean(answered)), "reranker_weight": choice.value}
    return {f"{corpus}_{name}": value for name, value in figures.items()}


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--corpora", nargs="+", default=list(CORPORA), help=f"default: {' '.join(CORPORA)}")
    parser.add_argument("--reranker", metavar="MODEL", help="a CrossEncoder or MultiVectorEncoder")
    parser.add_argument("--bf16", action="store_true", help="encode under bfloat16 autocast")
    parser.add_argument("--captions", action="store_true", help="leave the images out: captions stand for them")
    args = parser.parse_args()
    if args.quick:
        space = space_of(quick_set(), RandomEncoder(args.seed))
        weights = choose_weights([space])
        report("manual_stages", args, weights | measure("quick", space, weights, CommonLetters()), [])
        return
    if args.reranker is None:
        parser.error("--reranker is missing: name the second stage")
    reranker, spaces = open_reranker(args.reranker), {}
    precision = torch.bfloat16 if args.bf16 else None
    shown = "captions of images" if args.captions else "images"
    for corpus in args.corpora:
        retrieval = load_retrieval_set(corpus)
        spaces[corpus] = space_of(retrieval, encoders(retrieval, {RELEASE: None}, precision, args.captions)[RELEASE])
    weights = choose_weights(list(spaces.values()))
    figures = dict(weights)
    for corpus, space in spaces.items():
        figures |= measure(corpus, space, weights, reranker)
        # After each corpus: they take minutes.
        report("manual_stages", args, figures, [f"passages and {shown} in one ranking; MRR@10 in percent"])


if __name__ == "__main__":
    main()
