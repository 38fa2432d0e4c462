"""The tables of figures in README.md, docs/ and the cards are what the files of results give."""

from __future__ import annotations

import pytest

from benchmarks import tables
from benchmarks.harness import ROOT
from benchmarks.tables import MINUS


@pytest.mark.parametrize("page", tables.PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_writing_the_tables_again_changes_nothing(page):
    text = page.read_text(encoding="utf-8")
    assert tables.rewritten(text) == text, "run: python benchmarks/tables.py"


def test_every_table_is_shown():
    shown = set().union(*(tables.marked(page.read_text(encoding="utf-8")) for page in tables.PAGES))
    assert shown == tables.TABLES.keys()


def test_what_stands_between_the_marks_is_replaced(monkeypatch):
    monkeypatch.setitem(tables.TABLES, "small", lambda: "| a |\n")
    text = "x\n<!-- table: small -->\nold\n<!-- end of table -->\ny\n# table: small\n# end of table\n"
    new = "x\n<!-- table: small -->\n| a |\n<!-- end of table -->\ny\n# table: small\n| a |\n# end of table\n"
    assert tables.rewritten(text) == new == tables.rewritten(new)


def test_an_unknown_table_is_named():
    with pytest.raises(ValueError, match="'absent'"):
        tables.rewritten("<!-- table: absent -->\n<!-- end of table -->\n")


@pytest.mark.parametrize(
    ("value", "text"), [(178.6, "179"), (71.0, "71"), (6.06, "6.1"), (1.66, "1.7"), (0.326, "0.33"), (0.96, "0.96")]
)
def test_two_digits(value, text):
    assert tables.two_digits(value) == text


def test_intervals_have_minus_signs():
    assert tables.interval({"mean": -0.25, "low": -2.2, "high": 1.5}) == f"{MINUS}0.2 ({MINUS}2.2 … 1.5)"
    assert tables.with_interval({"r": 1.0, "r_low": -0.5, "r_high": 2.0}, "r") == f"1.0 ({MINUS}0.5 … 2.0)"
