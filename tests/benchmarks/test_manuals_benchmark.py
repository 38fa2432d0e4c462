"""The benchmark of manuals: what it measures of each model."""

import argparse

import pytest

from benchmarks import manuals
from benchmarks.manuals import RELEASE, UNTRAINED, RandomEncoder, measure, quick_set


def test_rows_of_a_corpus():
    same = RandomEncoder(0)
    found = measure("set", quick_set(), {UNTRAINED: same, RELEASE: same, "other": RandomEncoder(1)}, [2, 8])
    assert {found[f"set_{name}"] for name in ("questions", "texts", "images")} == {11}
    # The words find the text before its image; random vectors find little.
    assert found["set_bm25"] > 90 > found["set_untrained"]
    assert found["set_release"] == found["set_untrained"]
    for end in ("", "_hybrid"):
        assert found[f"set_release{end}_over_untrained{end}"] == 0
        ours, theirs = found[f"set_other{end}"], found[f"set_untrained{end}"]
        assert found[f"set_other{end}_over_untrained{end}"] == pytest.approx(ours - theirs)
    # The questions of both splits are the same here, so the chosen weight is no worse than BM25 left out.
    assert found["set_untrained_hybrid"] >= found["set_untrained"]
    assert found["set_all_questions"] == 22
    assert found["set_other_all"] == pytest.approx(found["set_other"])
    assert found["set_other_8"] == pytest.approx(found["set_other"])
    assert found["set_other_2"] != found["set_other"]
    assert found["set_release_low"] <= found["set_release"] <= found["set_release_high"]


@pytest.mark.parametrize("text", ["folder", "=folder", "bm25=folder", "untrained=folder", "two words=folder"])
def test_models_have_names(text):
    with pytest.raises(argparse.ArgumentTypeError, match="NAME=FOLDER"):
        manuals._named_folder(text)


def test_quick_run(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["manuals.py", "--quick"])
    manuals.main()
    assert '"mean_release_hybrid"' in capsys.readouterr().out
