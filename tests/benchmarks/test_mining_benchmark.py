"""The mining benchmark's quick run."""

import pytest

from tests.benchmarks.test_quick_runs import _quick

pytest.importorskip("faiss")


@pytest.mark.slow
def test_mining_prints_its_figures():
    figures = _quick("mining", "--vectors", 3000, "--queries", 200)
    assert set(figures) == {
        *("vectors", "queries", "faiss_seconds", "mining_seconds", "mining_over_faiss", "mining_over_search"),
        *("mining_mib", "reference_spread", "busy_retries", "other_cores"),
    }
    assert (figures["vectors"], figures["queries"]) == (3000, 200)
    assert figures["mining_over_faiss"] > 0 < figures["mining_seconds"]
