"""Images with a share of the texts beside them: the vectors, and what an update does."""

import json

import numpy as np
import pytest

from modeling_unimur.cli.main import main
from modeling_unimur.encoding.build import build_index
from modeling_unimur.encoding.context import check_context, with_context
from tests.encoding.corpora import assert_same_content, content, options, picture
from tests.index.vectors import random_units

IMAGES = {"i0": "one", "i1": "one", "i2": "two", "i3": None, "i4": "no texts"}
TEXTS = {"t0": ("a harbour", "one"), "t1": ("a lighthouse", "one"), "t2": ("bread", "two"), "t3": ("salt", None)}


def write(folder, images=IMAGES, texts=TEXTS):
    rows = [{"id": name, "image": f"{name}.png", "section": section} for name, section in images.items()]
    rows += [{"id": name, "text": text, "section": section} for name, (text, section) in texts.items()]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "corpus.jsonl"


@pytest.fixture
def source(tmp_path):
    for number, name in enumerate(IMAGES):
        picture(tmp_path / f"{name}.png", number)
    return write(tmp_path)


def expected(plain: dict, weight: float) -> dict:
    """Every image plus `weight` times the direction of the sum of its section's texts."""
    found = {}
    for (kind, name), (payload, vector) in plain.items():
        section = payload.get("section")
        beside = [
            other for (one, _), (about, other) in plain.items() if one == "text" and about.get("section") == section
        ]
        if kind == "image" and section and beside:
            total = np.sum(beside, axis=0)
            vector = vector + weight * total / np.linalg.norm(total)
            vector = vector / np.linalg.norm(vector)
        found[kind, name] = payload, vector
    return found


# -- vectors ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("groups", "unlike"),
    [
        (["a", "a", "a", "b"], [2]),
        (["a", "b", "a", "b"], [2, 3]),
        (["", None, "", None], []),  # no group is none
        (["a", "b", "c", "c"], []),  # nor is one of images alone
    ],
)
def test_images_with_texts_of_their_group(groups, unlike):
    vectors, is_image = random_units(4, 8), np.array([False, False, True, True])
    found = with_context(vectors, is_image, groups, 0.5)
    assert np.flatnonzero(np.abs(found - vectors).max(axis=1) > 1e-6).tolist() == unlike
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(with_context(vectors, is_image, groups, 0.0)[:2], vectors[:2])
    for row in unlike:
        texts = sum(vectors[place] for place in (0, 1) if groups[place] == groups[row])
        joined = vectors[row] + 0.5 * texts / np.linalg.norm(texts)
        np.testing.assert_allclose(found[row], joined / np.linalg.norm(joined), atol=1e-6)


def test_texts_that_cancel_each_other_are_no_context():
    vectors = np.array([[1, 0], [-1, 0], [0, 1]], np.float32)
    found = with_context(vectors, np.array([False, False, True]), ["a"] * 3, 1.0)
    np.testing.assert_array_equal(found, vectors)


@pytest.mark.parametrize(
    "wrong", [("section",), ("", 1.0), ("section", -1.0), ("section", float("nan")), "section=1", 3]
)
def test_what_is_no_context(wrong):
    with pytest.raises(ValueError, match="context"):
        check_context(wrong)
    with pytest.raises(ValueError, match="context"):
        options(context=wrong)


# -- an index ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("name", "kind"), [("index", "Flat"), ("index", "memory"), ("items.db", None)])
def test_an_index_of_images_in_their_context(encoder, source, tmp_path, name, kind):
    if name.endswith(".db"):
        pytest.importorskip("milvus_lite")
    build_index(source, encoder, tmp_path / "plain", options())
    build_index(source, encoder, tmp_path / name, options(index=kind, context=("section", 0.5)))
    plain = content(tmp_path / "plain")
    assert_same_content(content(tmp_path / name), expected(plain, 0.5), 1e-5)


def test_a_narrow_index_takes_the_first_numbers_of_whole_vectors(encoder, source, tmp_path):
    build_index(source, encoder, tmp_path / "plain", options())
    build_index(source, encoder, tmp_path / "index", options(context=("section", 0.5), truncate_dim=8))
    for key, (_, vector) in expected(content(tmp_path / "plain"), 0.5).items():
        first = vector[:8] / np.linalg.norm(vector[:8])
        np.testing.assert_allclose(content(tmp_path / "index")[key][1], first, atol=1e-5)


CHANGES = {
    "nothing": ({}, 0),
    "a text of two images": ({"t1": ("a bridge", "one")}, 3),
    "a text in another section": ({"t1": ("a lighthouse", "two")}, 4),
    "a text in no section": ({"t2": ("bread", None)}, 2),
    "a section that had no texts": ({"t3": ("salt", "no texts")}, 2),
}


@pytest.mark.parametrize("change", CHANGES)
def test_an_update_replaces_the_images_beside_what_changed(counting, source, tmp_path, change):
    changed, replaced = CHANGES[change]
    build_index(source, counting, tmp_path / "index", options(context=("section", 0.5)))
    write(tmp_path, texts={**TEXTS, **changed})
    seen = counting.seen
    report = build_index(source, counting, tmp_path / "index", options())
    assert (report.replaced, report.added, report.removed) == (replaced, 0, 0)
    assert counting.seen - seen <= 1  # at most a new text; no image
    build_index(source, counting, tmp_path / "plain", options())
    assert_same_content(content(tmp_path / "index"), expected(content(tmp_path / "plain"), 0.5), 1e-5)


def test_removed_texts_leave_the_image_alone(encoder, source, tmp_path):
    build_index(source, encoder, tmp_path / "index", options(context=("section", 0.5)))
    write(tmp_path, texts={name: row for name, row in TEXTS.items() if name != "t2"})
    report = build_index(source, encoder, tmp_path / "index", options())
    assert (report.removed, report.replaced) == (1, 1)
    build_index(source, encoder, tmp_path / "plain", options())
    assert_same_content(content(tmp_path / "index"), expected(content(tmp_path / "plain"), 0.5), 1e-5)


@pytest.mark.parametrize(("context", "weight", "replaced"), [(("section", 1.0), 1.0, 3), (("section", 0.0), 0.0, 3)])
def test_another_weight_encodes_nothing(counting, source, tmp_path, context, weight, replaced):
    build_index(source, counting, tmp_path / "plain", options())
    build_index(source, counting, tmp_path / "index", options(context=("section", 0.5)))
    seen = counting.seen
    report = build_index(source, counting, tmp_path / "index", options(context=context))
    assert (report.replaced, counting.seen) == (replaced, seen)
    assert_same_content(content(tmp_path / "index"), expected(content(tmp_path / "plain"), weight), 1e-5)
    assert build_index(source, counting, tmp_path / "index", options()).replaced == 0


@pytest.mark.parametrize("word", ["section", "section=", "=0.5", "section=-1", "section=much"])
def test_the_command_names_what_it_takes(word, tmp_path, capsys):
    assert main(["index", "build", "gimp_manual", "--index", str(tmp_path / "index"), "--context", word]) != 0
    assert "FIELD=WEIGHT" in capsys.readouterr().err
