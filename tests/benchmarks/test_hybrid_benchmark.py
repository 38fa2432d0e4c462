"""The hybrid benchmark's quick run."""

import pytest

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
