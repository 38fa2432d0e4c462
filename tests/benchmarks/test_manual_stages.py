"""The benchmark of a search's stages: its rows, and how they are compared."""

import pytest

from benchmarks import manual_stages
from benchmarks.manual_stages import PAIRS, CommonLetters, measure, space_of
from benchmarks.manuals import RandomEncoder, quick_set
from modeling_unimur.evaluation.universal import choose_weights


def test_rows_of_a_corpus():
    space = space_of(quick_set(), RandomEncoder(0))
    found = measure("set", space, choose_weights([space]), CommonLetters())
    assert found["set_questions"] == 11
    for ours, theirs in PAIRS:
        assert found[f"set_{ours}_over_{theirs}"] == pytest.approx(found[f"set_{ours}"] - found[f"set_{theirs}"])
    # The weights are chosen on the same questions here.
    assert found["set_hybrid"] >= found["set_dense"]
    assert found["set_weighted"] >= found["set_context_hybrid"] == found["set_hybrid"]  # there are no groups
    assert found["set_within"] >= found["set_second_stage"]
    assert found["set_bm25_images"] == pytest.approx(50)
    assert found["set_relevant_images"] == 0


def test_quick_run(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["manual_stages.py", "--quick"])
    manual_stages.main()
    assert '"quick_hybrid_over_bm25"' in capsys.readouterr().out


def test_a_second_stage_is_asked_for(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["manual_stages.py"])
    with pytest.raises(SystemExit):
        manual_stages.main()
    assert "--reranker" in capsys.readouterr().err
