"""Rounds of questions and answers: a caption in pieces, dialogues from the real WordNet and a few pictures' words."""

from collections import Counter

import pytest

from modeling_unimur.data.titles import split_of_title
from tests.examples_mini.test_dialogues import IMAGES
from tests.installable import loaded_or_skipped
from unimur_mini.dialogues.captions import caption_pieces
from unimur_mini.dialogues.lexicon import Lexicon
from unimur_mini.dialogues.stems import content_stems, hidden_stems, says
from unimur_mini.dialogues.texts import build_questions, load_questions
from unimur_mini.wordnet import load_wordnet

SIZE = 300
NOUNS = frozenset(["bus", "feline", "beads", "dice", "instrument", "truck", "children"])


@pytest.mark.parametrize(
    ("caption", "pieces"),
    [
        (
            "A yellow school bus with a flat tyre.",
            "what bus, colour yellow, modifier school, having with a flat tyre",
        ),
        (
            "large predatory feline of Africa having a tawny coat",
            "what feline, size large, modifier predatory, more Africa, having having a tawny coat",
        ),
        ("two red dice", "what dice, number two, colour red"),
        ("he carried the load up the hill", "event he carried the load, where up the hill"),
        ("the children were playing in the garden", "event the children were playing, where in the garden"),
        (
            "truck whose bed can be tipped without handling",
            "what truck, clause whose bed can be tipped, having without",
        ),
        ("beads used to count for a living", "what beads, purpose used to count, purpose for a living"),
        ("beads and bells like stars; seen in it", "what beads, more bells, more like stars, more seen in it"),
        ("", ""),
    ],
)
def test_pieces_of_a_caption(caption, pieces):
    found = caption_pieces(caption, lambda word: word.casefold() in NOUNS)
    said = ", ".join(f"{piece.kind} {piece.text}" for piece in found)
    assert said.startswith(pieces)
    assert content_stems(said) >= content_stems(caption)


@pytest.fixture(scope="module")
def lexicon():
    return Lexicon(loaded_or_skipped(load_wordnet).with_format("arrow")[:].to_pylist())


@pytest.fixture(scope="module")
def questions(lexicon):
    return build_questions(lexicon, IMAGES, seed=0, size=SIZE)


def check(parts, lexicon):
    titles = {row["image_id"]: row["title"] for row in IMAGES}
    for split, rows in parts.items():
        for row in rows:
            texts = [turn["content"] for turn in row["turns"]]
            assert 10 <= len(texts) <= 20
            assert len(texts) % 2 == 0
            assert [turn["role"] for turn in row["turns"]] == ["user", "assistant"] * (len(texts) // 2)
            assert all(texts)
            assert not any(mark in text for text in texts for mark in "{}")
            if row["form"] == "caption_questions":
                words = content_stems(row["target_text"])
                said = [words & content_stems(text) for text in texts]
                assert max(map(len, said)) <= max(1, 0.6 * len(words)), row
                # Slips of the finger may lose a word.
                assert len(frozenset().union(*said)) >= 0.3 * len(words), row
            else:
                names = lexicon.synsets[row["target_synset"]]["lemmas"] if row["target_synset"] else []
                assert not any(says(text, hidden_stems([*names, row["target_text"]])) for text in texts), row
            if row["target_picture"] in titles:
                assert split_of_title(titles[row["target_picture"]]) == split


def test_no_message_gives_the_answer_away(questions, lexicon):
    check(questions, lexicon)


def test_sizes_and_variety(questions):
    train = questions["train"]
    assert 0.5 * SIZE < len(train) <= SIZE
    assert len(questions["validation"]) > 0
    assert len(questions["test"]) > 0
    assert set(train["form"]) == {"caption_questions", "twenty_questions"}
    lengths = Counter(len(turns) for turns in train["turns"])
    assert lengths[20] > 0.35 * len(train)
    assert set(lengths) == {10, 12, 14, 16, 18, 20}
    asked = Counter(turn["content"] for turns in train["turns"] for turn in turns[::2])
    assert max(asked.values()) < 0.02 * asked.total()
    assert any(row["target_picture"] for row in train)
    groups = [set(rows["group"]) for rows in questions.values()]
    assert len(set.union(*groups)) == sum(map(len, groups))


def test_same_seed_same_questions(lexicon):
    first, again, other = (
        build_questions(lexicon, IMAGES, seed=seed, size=30)["train"].to_list() for seed in (3, 3, 4)
    )
    assert first == again
    assert first != other


@pytest.mark.slow
def test_the_whole_set(lexicon):
    parts = loaded_or_skipped(load_questions)
    assert len(parts["train"]) > 8_000
    assert min(len(parts["validation"]), len(parts["test"])) > 500
    check(parts, lexicon)
