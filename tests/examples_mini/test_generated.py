"""Generated questions: what they are made of, and what is kept out of them."""

from dataclasses import replace

import pytest

from tests.installable import loaded_or_skipped
from unimur_mini.manuals.descriptions import GIMP, SCIKIT_LEARN
from unimur_mini.manuals.documents import Document, Manual
from unimur_mini.manuals.generated import generated_queries, section_title
from unimur_mini.manuals.queries import Query
from unimur_mini.manuals.tables import load_manual

SPLITS = {"Paint": "train", "Select": "test"}
PASSAGES = {
    "a": ("Paint > Blur > Options", "Paint", "Softer strokes come from a lower hardness. Then more."),
    "b": ("Paint > Blur > Options", "Paint", "The rate says how strongly each stroke blurs the pixels below."),
    "c": ("Paint > Smudge > Options", "Paint", "Wet paint runs with every new stroke. It dries later."),
    "d": ("Select > Fuzzy > Options", "Select", "A threshold bounds the colours that are taken along."),
    "e": ("Paint > Ink", "Paint", "Ink flows from a nib."),
}


@pytest.fixture
def manual():
    made = Manual(GIMP, {}, frozenset())
    made.documents = {name: Document(name, "text", text, "", *place) for name, (*place, text) in PASSAGES.items()}
    return made


def asked(manual, *queries):
    return {(q.kind, q.text): (q.relevant, q.excluded) for q in generated_queries(manual, queries, SPLITS)}


def test_titles_and_first_sentences(manual):
    leads = [PASSAGES["a"][2].split(". ")[0] + ".", PASSAGES["b"][2]]
    assert asked(manual) == {
        ("title", "Options, Blur"): ({"a": 2, "b": 2}, []),
        ("title", "Options, Smudge"): ({"c": 2}, []),
        ("title", "Ink, Paint"): ({"e": 2}, []),
        ("lead", leads[0]): ({"b": 2}, ["a"]),
        ("lead", leads[1]): ({"a": 2}, ["b"]),
    }
    assert section_title("Alone") == "Alone"


@pytest.mark.parametrize(
    ("query", "lost"),
    [
        (Query("text", "how colours are taken", {"d": 2}, ["a"]), {"a"}),  # a test question was taken from it
        (Query("text", "over two chapters", {"d": 2, "c": 2}), {"c"}),
        (Query("heading", "INK,  paint", {"e": 2}), {"e"}),  # asked already
        (Query("text", "of the training split", {"e": 2}, ["a"]), set()),
    ],
)
def test_what_other_questions_read_is_kept_out(manual, query, lost):
    found = asked(manual, query)
    used = {doc for relevant, excluded in found.values() for doc in (*relevant, *excluded)}
    assert used == set(PASSAGES) - {"d"} - lost


def test_equal_titles_are_one_question_with_several_answers(manual):
    manual.documents["c"] = replace(manual.documents["c"], section="Brush > Blur > Options")
    assert asked(manual)["title", "Options, Blur"] == ({"a": 2, "b": 2, "c": 2}, [])


def test_shared_passages_and_images_answer_nothing(manual):
    manual.documents["a"].shared = True
    manual.documents["e"].kind = "image"
    assert set(asked(manual)) == {("title", "Options, Blur"), ("title", "Options, Smudge")}


@pytest.fixture(scope="module")
def tables():
    return loaded_or_skipped(lambda: load_manual(GIMP))


def test_no_test_passage_is_among_those_of_the_manual(tables):
    corpus = {row["doc_id"]: row for row in tables["corpus"]["corpus"]}
    held_out, texts = set(), set()
    for split in ("validation", "test"):
        held_out |= set(tables["qrels"][split]["doc_id"])
        held_out |= {doc for docs in tables["queries"][split]["excluded"] for doc in docs}
        texts |= {text.casefold() for text in tables["queries"][split]["text"]}
    rows = tables["generated_queries"]["train"].to_list()
    assert {row["kind"] for row in rows} == {"title", "link", "lead"}
    assert len(rows) > 1000
    used = set(tables["generated_qrels"]["train"]["doc_id"]) | {doc for row in rows for doc in row["excluded"]}
    assert not used & held_out
    assert {corpus[doc]["chapter"] for doc in used}.isdisjoint(
        corpus[doc]["chapter"] for doc in set(tables["qrels"]["test"]["doc_id"])
    )
    assert texts.isdisjoint(row["text"].casefold() for row in rows)
    for row in rows:
        if row["kind"] == "lead":
            assert all(row["text"] in corpus[doc]["text"] for doc in row["excluded"])


def test_a_manual_that_is_not_trained_on_has_none():
    tables = loaded_or_skipped(lambda: load_manual(SCIKIT_LEARN))
    assert not len(tables["generated_queries"]["train"])
