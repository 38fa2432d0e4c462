"""The published figures and the table in which they stand beside ours."""

import pytest

from modeling_unimur.evaluation.published import comparison, published_figures
from modeling_unimur.evaluation.tasks import TASKS
from tests.evaluation.test_report import result


@pytest.mark.parametrize("paper", ["unimur", "univl-dr"])
def test_every_figure_says_where_it_is_from(paper):
    for figure in published_figures(paper):
        assert figure["task"] in TASKS
        assert 0 < figure["value"] <= 100
        assert figure["source"]
        assert figure["status"] in ("published", "second-hand", "inferred")


def test_a_run_of_one_model_has_no_gain():
    found = result("mine")
    found.systems["mine"].values["overall_r1"] = found.systems["mine"].values.pop("overall r1")
    text = comparison("unimur", {"mmdialog": found}, ["mine"])
    (gain,) = [line for line in text.splitlines() if line.startswith("| mmdialog, overall_r1")]
    assert gain.endswith("|  |  |")
    assert "visdial" not in text
    assert "- mmdialog: a note" in text
