"""Hybrid search beside its two parts: the GIMP manual's questions in one ranking of passages and images.

    python benchmarks/hybrid.py [--quick] [--model FOLDER] [--index FOLDER] [--rerankers FOLDER ...]

The manual is built into an index with words (`unimur index build gimp_manual --bm25`). The weight of BM25 is chosen on
the validation questions, and all rankings are measured on the test questions:

- `mrr10_bm25`, `mrr10_vectors`, `mrr10_hybrid`, `mrr10_rrf`: MRR@10 in percent; `recall10_...` likewise. Only the
  section or image that is meant counts (grade 2), as in `univl_dr_ladder.py`; in figures that end in `_grade1`, a
  subsection of it and another image of the figure count too;
- `weight`: of BM25, the best of 0 to 1 in steps of 0.1 on the `validation_questions`; `test_questions`: their number;
- `hybrid_over_bm25`, `hybrid_over_vectors`: MRR@10 of hybrid minus that of the part, with `_low` and `_high`, the 95 %
  interval by the paired bootstrap over questions;
- `mrr10_NAME`, `recall10_NAME`, `NAME_over_rrf` with its interval: the first `rerank_top_k` of `rrf` rescored by the
  second stage in the folder NAME (`python -m unimur_mini.manuals.reranker` trains one); `NAME_within`: the percentage
  of questions with an answer among them;
- `search_ms`, `hybrid_ms`, `NAME_ms`: one question among `documents`, by vectors alone, hybrid, and the second stage
  of it, without the model.

With `--rerankers` the result is `second_stage.json`. The quick run has eleven texts with random vectors.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks.harness import MIN_ROUNDS, alternate, argument_parser, interval_figures, random_unit_vectors, report
from benchmarks.manuals import WORDS
from modeling_unimur.evaluation.significance import paired_bootstrap
from modeling_unimur.index import hybrid, open_index
from modeling_unimur.index.second_stage import Reranker, open_reranker
from modeling_unimur.memory_index import Hit, RetrievalIndex

TOP_K = 10
# Lowest grades that count: the section or the image that is meant (as in the ladder), or a part or sibling of it too.
LEAST_SCORES = (2, 1)


class Questions:
    """Questions with their answers (ids with grades, and ids that do not count) and what an index finds for them."""

    def __init__(self, index: RetrievalIndex, vectors: np.ndarray, texts: list[str], grades: list, excluded: list):
        self.grades, self.vectors, self.texts = grades, vectors, texts
        rows = hybrid.candidates(index, vectors, texts)
        self.found: list[list[Hit]] = [
            [hit for hit in hits if hit.id not in left_out] for hits, left_out in zip(rows, excluded, strict=True)
        ]

    def relevant(self, least: int) -> list[set[str]]:
        """Ids of the documents with this grade or a higher one."""
        return [{name for name, grade in row.items() if grade >= least} for row in self.grades]

    def reciprocal_ranks(self, setting: float | str, least: int) -> np.ndarray:
        """Of each question, in percent."""
        return self.ranks([hybrid.fuse(hits, setting) for hits in self.found], least)

    def ranks(self, rankings: Sequence[Sequence[Hit]], least: int) -> np.ndarray:
        """Reciprocal ranks of rankings, in percent."""
        pairs = zip(rankings, self.relevant(least), strict=True)
        return np.array([100 * hybrid.measure_rankings([hits], [wanted], TOP_K)[0] for hits, wanted in pairs])


def quick_questions(seed: int) -> tuple[RetrievalIndex, Questions, Questions]:
    """Eleven texts that the words find and the vectors do not."""
    rng, index = np.random.default_rng(seed), RetrievalIndex()
    vectors = random_unit_vectors(rng, 3 * len(WORDS), 16)
    index.add("text", list(WORDS), vectors[: len(WORDS)], [{"text": f"about a {word}"} for word in WORDS])
    texts, grades = [f"what is a {word}?" for word in WORDS], [{word: 2} for word in WORDS]
    parts = np.split(vectors[len(WORDS) :], 2)
    return index, *(Questions(index, part, texts, grades, [()] * len(texts)) for part in parts)


def manual_questions(args: argparse.Namespace, folder: Path) -> tuple[RetrievalIndex, Questions, Questions]:
    """Validation and test questions of the manual over an index of it, which is built where there is none."""
    from modeling_unimur.cli.retriever import model_folder, open_retriever
    from modeling_unimur.data.registry import load_retrieval_set
    from modeling_unimur.encoding.build import BuildOptions, build_index

    model = model_folder(args.model)
    build_index("gimp_manual", model, folder, BuildOptions(bm25=True, show_progress=sys.stderr.isatty()))
    retriever, manual = open_retriever(model), load_retrieval_set("gimp_manual")
    index = open_index(folder, read_only=True)
    found = []
    for split in ("validation", "test"):
        grades: dict[str, dict[str, float]] = {}
        for row in manual.qrels[split]:
            grades.setdefault(row["query_id"], {})[row["doc_id"]] = row["score"]
        best = {query: max(row.values()) for query, row in grades.items()}
        rows = [row for row in manual.queries[split] if best.get(row["query_id"], 0) >= max(LEAST_SCORES)]
        texts = [row["text"] for row in rows]
        vectors = retriever.embed(texts, batch_size=32).numpy()
        wanted = [grades[row["query_id"]] for row in rows]
        found.append(Questions(index, vectors, texts, wanted, [row["excluded"] for row in rows]))
    return index, *found


def rankings(validation: Questions, test: Questions, least: int) -> dict[str, float]:
    """Figures of all rankings where documents of a lower grade than `least` do not count."""
    tried = hybrid.compare_weights(validation.found, validation.relevant(least), TOP_K)
    weight = hybrid.best_weight({setting: tried[setting] for setting in hybrid.WEIGHTS})
    settings = {"bm25": 1.0, "vectors": 0.0, "hybrid": weight, "rrf": hybrid.RRF}
    figures = {"weight": float(weight)}
    for name, setting in settings.items():
        fused = [hybrid.fuse(hits, setting) for hits in test.found]
        mrr, recall = hybrid.measure_rankings(fused, test.relevant(least), TOP_K)
        figures |= {f"mrr10_{name}": 100 * mrr, f"recall10_{name}": 100 * recall}
    ranks = {name: test.reciprocal_ranks(setting, least) for name, setting in settings.items()}
    for part in ("bm25", "vectors"):
        figures |= interval_figures(f"hybrid_over_{part}", paired_bootstrap(ranks["hybrid"], ranks[part]))
    return figures


def second_stage(name: str, reranker: Reranker, test: Questions, top_k: int) -> dict[str, float]:
    """Figures of a second stage behind reciprocal rank fusion."""
    first = [hybrid.fuse(hits, hybrid.RRF) for hits in test.found]
    reranked, figures = reranker.rerank(first, test.texts, top_k), {}
    for least in LEAST_SCORES:
        end, relevant = "" if least == 2 else f"_grade{least}", test.relevant(least)
        mrr, recall = hybrid.measure_rankings(reranked, relevant, TOP_K)
        within = [
            bool({hit.id for hit in hits[:top_k]} & wanted) for hits, wanted in zip(first, relevant, strict=True)
        ]
        figures |= {f"mrr10_{name}{end}": 100 * mrr, f"recall10_{name}{end}": 100 * recall}
        figures[f"{name}_within{end}"] = 100 * float(np.mean(within))
        over = interval_figures(
            f"{name}_over_rrf", paired_bootstrap(test.ranks(reranked, least), test.ranks(first, least))
        )
        figures |= {f"{key}{end}": value for key, value in over.items()}
    return figures


def measure(
    index: RetrievalIndex,
    validation: Questions,
    test: Questions,
    rerankers: dict[str, Reranker],
    args: argparse.Namespace,
) -> dict[str, float]:
    figures = {"validation_questions": len(validation.texts), "test_questions": len(test.texts)}
    figures["documents"] = len(index)
    for least in LEAST_SCORES:
        end = "" if least == 2 else f"_grade{least}"
        figures |= {f"{name}{end}": value for name, value in rankings(validation, test, least).items()}
    one, text = test.vectors[:1], test.texts[:1]
    top_k = args.rerank_top_k
    hits = hybrid.search(index, one, text, hybrid.RRF, top_k)
    for name, reranker in rerankers.items():
        figures |= {"rerank_top_k": top_k, **second_stage(name, reranker, test, top_k)}
    timings = alternate(
        {
            "search": lambda: index.search(one, TOP_K),
            "hybrid": lambda: hybrid.search(index, one, text, 0.5, TOP_K),
            **{name: lambda own=own: own.rerank(hits, text, top_k) for name, own in rerankers.items()},
        },
        rounds=3 * MIN_ROUNDS,
        retries=1,
        quick=args.quick,
    )
    return figures | {f"{name}_ms": 1000 * seconds for name, seconds in timings.seconds.items()}


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--model", default="univl-dr-mini", help="folder of a model (default: univl-dr-mini)")
    parser.add_argument("--index", help="folder of the manual's index, built where it is not there")
    parser.add_argument("--rerankers", nargs="+", default=[], metavar="FOLDER", help="second stages")
    parser.add_argument("--rerank-top-k", type=int, default=20, metavar="N", help="hits to rescore (default: 20)")
    args = parser.parse_args()
    rerankers = {Path(name).name: open_reranker(name) for name in args.rerankers}
    with tempfile.TemporaryDirectory() as folder:
        if args.quick:
            made = quick_questions(args.seed)
        else:
            made = manual_questions(args, Path(args.index or Path(folder, "index")))
        notes = ["passages and images in one ranking; the best 100 of each part are fused"]
        report("second_stage" if rerankers else "hybrid", args, measure(*made, rerankers, args), notes)


if __name__ == "__main__":
    main()
