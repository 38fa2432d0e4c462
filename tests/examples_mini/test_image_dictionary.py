"""The picture dictionary: out of the real WordNet and a few pictures' words; the whole set where its packages are."""

from collections import Counter

import pytest

from modeling_unimur.data.captioned_images import load_captioned_images
from modeling_unimur.data.titles import split_of_title, title_group
from tests.installable import loaded_or_skipped
from unimur_mini.dialogues.lexicon import Lexicon
from unimur_mini.dialogues.stems import content_stems, hidden_stems, says
from unimur_mini.image_dictionary import build_image_dictionary, load_image_dictionary
from unimur_mini.wordnet import load_wordnet


def picture(name, title, description="", tags=(), source="openclipart"):
    words = {"title": title, "description": description, "tags": list(tags), "source": source}
    return {"image_id": f"{source}/{name}", "image": f"{name}.png", **words, "license": "PD", "author": ""}


IMAGES = [
    picture("lion", "Lion", tags=["animal", "mane", "big_cat"]),
    picture("lions", "lions 2", "A pride that rests below an acacia.", ["animal"]),
    picture("acacia", "Acacia", "a tree of the savannah"),
    picture("broom", "broom", "Broom made with Inkscape", ["household"]),
    picture("violin", "violin", "Violin!", ["music", "Stradivarius"]),
    picture("memo", "memo", "", ["pencil"], "openmoji"),
    picture("anchor", "anchor", "An anchor.", ["boats"], "stamps"),
    picture("anchor2", "Anchor", "An anchor.", ["boats"], "stamps"),
    picture("teapot", "teapot", "A blue teapot with a chip in its spout.", ["dishes"], "stamps"),
    picture("none", "", tags=["nothing"]),
    *(picture(f"beast{n}", f"beast {'abcd'[n]}", tags=["animal"]) for n in range(4)),
]


@pytest.fixture(scope="module")
def lexicon():
    return Lexicon(loaded_or_skipped(load_wordnet).with_format("arrow")[:].to_pylist())


@pytest.fixture(scope="module")
def small(lexicon):
    return build_image_dictionary(lexicon, IMAGES, num_definitions=400)


def rows_of(data):
    queries = {row["query_id"]: row for table in data.queries.values() for row in table}
    relevant = {query: docs for split in data.queries for query, docs in data.relevant(split).items()}
    documents = {row["doc_id"]: row for row in data.corpus}
    return queries, relevant, documents


def asked(data, form):
    queries, relevant, _ = rows_of(data)
    return {row["text"]: (row, set(relevant[query])) for query, row in queries.items() if row["form"] == form}


def test_documents(small):
    _, _, documents = rows_of(small)
    shown = {doc: row["text"] for doc, row in documents.items() if row["kind"] == "image"}
    assert len(shown) == len(IMAGES) - 1  # the one without a title
    assert shown["stamps/teapot"] == "teapot, dishes"
    assert documents["sentence/stamps/teapot"]["text"] == "A blue teapot with a chip in its spout."
    assert documents["stamps/teapot"]["group"] == documents["sentence/stamps/teapot"]["group"] == title_group("teapot")
    # One sentence of two stamps is one document.
    assert sum(row["text"] == "An anchor." for row in documents.values()) == 1
    assert documents["openclipart/lion"]["image"] == "lion.png"
    assert Counter(doc.partition("/")[0] for doc in documents)["gloss"] == 400


def test_tags_are_taken_out_of_their_documents(small):
    _, _, documents = rows_of(small)
    tags = asked(small, "tag")
    assert tags["mane"][1] == {"openclipart/lion"}
    assert documents["openclipart/lion"]["text"] == "Lion, animal"  # of its tags the two rare ones are asked for
    assert tags["pencil"][1] == {"openmoji/memo"}  # another name of an emoji
    assert documents["openmoji/memo"]["text"] == "memo"
    assert "animal" not in tags  # six pictures have it
    assert not {"boats", "dishes"} & set(tags)  # folders of stamps are no tags


def test_descriptions_say_more_than_the_title(small):
    found = asked(small, "description")
    assert set(found) == {"A pride that rests below an acacia.", "a tree of the savannah"}
    row, relevant = found["A pride that rests below an acacia."]
    assert relevant == {"openclipart/lions"}
    assert row["excluded"] == ["openclipart/lion"] if title_group("lions 2") == title_group("Lion") else []


def test_glosses_find_all_pictures_of_the_name(small, lexicon):
    queries, relevant, documents = rows_of(small)
    found = [(row, relevant[query]) for query, row in queries.items() if row["form"] == "gloss"]
    by_documents = {frozenset(docs): row for row, docs in found}
    broom = by_documents[frozenset({"openclipart/broom"})]
    assert not says(broom["text"], hidden_stems(["broom"]))
    # "... the highest member of the violin family" names it.
    assert not any("openclipart/violin" in docs for docs in by_documents)
    anchors = next(docs for docs in by_documents if "stamps/anchor" in docs)
    assert anchors == {"stamps/anchor", "stamps/anchor2", "sentence/stamps/anchor"}
    # The definition that is asked with is no document.
    assert not {row["text"] for row, _ in found} & {row["text"] for row in documents.values()}


def test_words_ask_for_their_definitions(small, lexicon):
    queries, relevant, documents = rows_of(small)
    words = [query for query, row in queries.items() if row["form"] == "word"]
    counts = Counter(row["kind"] for row in queries.values())
    assert 0 < counts["text"] <= counts["image"]
    assert words
    for query in words:
        (doc,) = relevant[query]
        assert not content_stems(queries[query]["text"]) & content_stems(documents[doc]["text"])


def test_sentences_ask_for_the_entry_of_their_word(small):
    queries, relevant, documents = rows_of(small)
    found = [query for query, row in queries.items() if row["form"] == "usage"]
    assert found
    for query in found:
        (doc,) = relevant[query]
        word, colon, gloss = documents[doc]["text"].partition(": ")
        assert colon
        assert word in queries[query]["text"].casefold()
        assert gloss not in queries[query]["text"]
        # Another sense of the word is a wrong answer, a picture of that name may be right.
        assert not any(other.startswith("gloss/") for other in queries[query]["excluded"])
    entries = sum(": " in row["text"] for doc, row in documents.items() if doc.startswith("gloss/"))
    assert 100 < entries < 200


def check(data):
    """What holds for the set of whatever size."""
    queries, relevant, documents = rows_of(data)
    assert set(queries) == set(relevant)
    for query, row in queries.items():
        assert relevant[query], row
        assert set(relevant[query]) <= set(documents), row
        assert set(row["excluded"]) <= set(documents), row
        assert not set(row["excluded"]) & set(relevant[query]), row
        shown = [doc for doc in relevant[query] if documents[doc]["kind"] == "image"]
        assert bool(shown) == (row["kind"] == "image"), row
        texts = {documents[doc]["text"].casefold() for doc in relevant[query]}
        assert row["text"].casefold() not in texts, row
        told = [documents[doc]["text"] for doc in relevant[query]]
        if row["form"] == "tag":
            assert not says(row["text"], hidden_stems(told)), row
        elif row["form"] == "word":
            assert not says(told[0], hidden_stems([row["text"]])), row
    return queries, relevant, documents


def test_every_query_is_answered_and_given_away_nowhere(small):
    check(small)


def test_splits_are_those_of_the_titles(small):
    titles = {row["image_id"]: row["title"] for row in IMAGES}
    for split in small.queries:
        for documents in small.relevant(split).values():
            assert {split_of_title(titles[doc]) for doc in documents if doc in titles} <= {split}


@pytest.mark.slow
def test_whole_set():
    data = loaded_or_skipped(load_image_dictionary)
    _, _, documents = check(data)
    kinds = Counter(row["kind"] for row in documents.values())
    assert kinds["image"] == len(loaded_or_skipped(load_captioned_images))
    assert 0.8 < kinds["text"] / kinds["image"] < 1.4
    for split, least in (("train", 800), ("validation", 50), ("test", 90)):
        counts = Counter(row["kind"] for row in data.queries[split])
        assert counts["image"] >= least, (split, counts)
        assert counts["text"] == counts["image"]
    assert set(data.queries) == {"train", "validation", "test"}
