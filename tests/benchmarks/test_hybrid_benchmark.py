"""The hybrid benchmark's quick run."""

import pytest

from benchmarks.hybrid import quick_questions, second_stage
from modeling_unimur.index.hybrid import RRF
from tests.benchmarks.test_quick_runs import _quick

pytest.importorskip("bm25s")


def test_hybrid_prints_its_figures():
    figures = _quick("hybrid")
    names = ("bm25", "vectors", "hybrid", "rrf")
    graded = {
        "weight",
        *(f"{measure}_{name}" for measure in ("mrr10", "recall10") for name in names),
        *(f"hybrid_over_{part}{end}" for part in ("bm25", "vectors") for end in ("", "_low", "_high")),
    }
    assert graded | {f"{name}_grade1" for name in graded} <= set(figures)
    assert {"validation_questions", "test_questions", "documents", "search_ms", "hybrid_ms"} <= set(figures)
    assert figures["mrr10_bm25"] == 100  # each question holds the word of its text alone
    assert figures["mrr10_vectors"] < 60
    assert figures["hybrid_over_vectors_low"] > 0


def test_a_second_stage_is_measured_behind_reciprocal_rank_fusion():
    _, _, test = quick_questions(0)

    class Knowing:
        """Puts the text of the word that is asked for first, if it is among the hits."""

        def rerank(self, found, words, top_k):
            asked = [text.removeprefix("what is a ").removesuffix("?") for text in words]
            return [
                sorted(hits[:top_k], key=lambda hit: hit.id != word) + hits[top_k:]
                for word, hits in zip(asked, found, strict=True)
            ]

    for top_k in (1, 2, 11):
        figures = second_stage("knowing", Knowing(), test, top_k)
        first = test.reciprocal_ranks(RRF, 2)
        assert figures["knowing_within"] == pytest.approx(100 * (first >= 100 / top_k).mean())
        assert figures["knowing_over_rrf"] == pytest.approx(figures["mrr10_knowing"] - first.mean())
    assert figures["mrr10_knowing"] == figures["recall10_knowing_grade1"] == 100
