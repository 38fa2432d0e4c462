"""The dialogues: built from the real WordNet and a few pictures' words; the full set where its packages are."""

from collections import Counter

import pytest

from modeling_unimur.data.captioned_images import load_captioned_images
from modeling_unimur.data.titles import normalise_title, split_of_title
from tests.installable import loaded_or_skipped
from unimur_mini.dialogues.builder import FORMS
from unimur_mini.dialogues.glosses import noun_phrase, plain, statements, with_article
from unimur_mini.dialogues.lexicon import Lexicon
from unimur_mini.dialogues.pools import link_images
from unimur_mini.dialogues.stems import hidden_stems, says
from unimur_mini.dialogues.texts import build_dialogues, build_glosses, load_dialogue_texts, load_glosses
from unimur_mini.dialogues.things import head_noun, split_of
from unimur_mini.wordnet import load_wordnet

SIZE = 600


def picture(name, title, description="", tags=(), source="openclipart"):
    words = {"title": title, "description": description, "tags": list(tags), "source": source}
    return {"image_id": f"{source}/{name}", "image": "", **words, "license": "GPL-2.0-or-later", "author": ""}


TITLES = (
    *("Lion", "bicycle", "umbrella", "tiger", "violin", "Hammer", "teapot"),
    *("lighthouse", "banana", "helicopter", "sofa", "Giraffe", "candle", "anchor"),
)
IMAGES = [
    *(picture(f"a/{title}", title, tags=["thing"]) for title in TITLES),
    picture("fauna/lion2", "lions", tags=["animals", "cats"]),
    picture("animals/skunk", "skunk", tags=["animals", "mammals"]),
    picture("hat/a", "blue hat", "A blue hat.", ["clothes"], "stamps"),
    picture("bus/a", "yellow school bus", "A yellow school bus with a flat tyre.", ["vehicles"], "stamps"),
    picture("cup/b", "broken kettle on a table", "", ["kitchen", "household"]),
    picture("none", "", "", ["x"]),
]


@pytest.fixture(scope="module")
def lexicon():
    wordnet = loaded_or_skipped(load_wordnet)
    return Lexicon(wordnet.with_format("arrow")[:].to_pylist())


@pytest.fixture(scope="module")
def dialogues(lexicon):
    return build_dialogues(lexicon, IMAGES, seed=0, size=SIZE)


def check_rows(rows, split, lexicon, titles):
    """What holds for every dialogue of whatever size."""
    for row in rows:
        turns = row["turns"]
        assert 2 <= len(turns) <= 8, row
        assert [turn["role"] for turn in turns] == ["user", "assistant"] * (len(turns) // 2) + ["user"] * (
            len(turns) % 2
        )
        assert all(turn["content"].strip() for turn in turns), row
        assert not any("{" in turn["content"] or "}" in turn["content"] for turn in turns), row
        assert all(row[name].strip() for name in ("target_text", "group", "license", "form", "dialogue_id")), row
        names = lexicon.synsets[row["target_synset"]]["lemmas"] if row["target_synset"] else []
        if row["target_kind"] == "sentence" and row["target_picture"]:
            # Of a caption the noun is hidden; what else it says is what the dialogue tells.
            names = [*names, head_noun(lexicon, titles[row["target_picture"]])]
        told = " ".join(turn["content"] for turn in turns)
        if row["target_kind"] == "title":
            names = [*names, row["target_text"]]
        assert not says(told, hidden_stems(names)), row
        # Independent of the stems: no name stands in it word for word.
        words = f" {normalise_title(told)} "
        assert not any(f" {normalise_title(name)} " in words for name in names if normalise_title(name)), row
        assert split_of(names)[0] in (split, "train"), row
        if split == "train":
            assert all(split_of_title(name) == "train" for name in names), row
        assert split_of_title(row["group"]) == split or split == "train", row


def test_every_dialogue_is_well_formed_and_names_nothing(dialogues, lexicon):
    for split, rows in dialogues.items():
        check_rows(rows, split, lexicon, {row["image_id"]: row["title"] for row in IMAGES})


def test_sizes_forms_and_variety(dialogues):
    assert {split: len(rows) for split, rows in dialogues.items()}.keys() == {"train", "validation", "test"}
    train = dialogues["train"]
    assert 0.9 * SIZE <= len(train) <= SIZE
    assert 0 < len(dialogues["validation"]) <= 0.1 * SIZE
    assert set(FORMS) == set(train["form"])
    assert max(Counter(train["form"]).values()) < 0.4 * len(train)
    # In a small set with few pictures a first turn hardly repeats.
    assert len({turns[0]["content"] for turns in train["turns"]}) > 0.9 * len(train)
    assert len(set(train["dialogue_id"])) == len(train)
    assert {len(turns) for turns in train["turns"]} == set(range(2, 9))
    groups = [set(rows["group"]) for rows in dialogues.values()]
    assert len(set.union(*groups)) == sum(map(len, groups))


def test_same_seed_same_dialogues(lexicon):
    first, again, other = (
        build_dialogues(lexicon, IMAGES, seed=seed, size=60)["train"].to_list() for seed in (3, 3, 4)
    )
    assert first == again
    assert [row["turns"] for row in first] != [row["turns"] for row in other]


def test_pictures_are_linked_by_the_first_sense_and_within_their_split(dialogues, lexicon):
    linked, rest = link_images(lexicon, IMAGES)
    lion = lexicon.noun_of_title("lion")
    assert [row["title"] for row in linked[lion]] == ["Lion", "lions"]
    assert lexicon.synsets[lion]["lexname"] == "noun.animal"
    # WordNet's first skunk is a person; the picture is filed under animals.
    assert not any(row["title"] == "skunk" for rows in [*linked.values(), rest] for row in rows)
    assert {row["title"] for row in rest} == {"blue hat", "yellow school bus", "broken kettle on a table"}
    titles = {row["image_id"]: row["title"] for row in IMAGES}
    found = Counter()
    for split, rows in dialogues.items():
        for row in rows:
            if row["target_picture"]:
                found[split] += 1
                assert split_of_title(titles[row["target_picture"]]) == split
    assert found["train"] > 50


def test_a_held_out_name_holds_the_thing_out():
    held_out = next(title for title in TITLES if split_of_title(title) == "test")
    kept = next(title for title in TITLES if split_of_title(title) == "train")
    assert split_of([kept]) == ("train", kept.casefold())
    assert split_of([kept, held_out])[0] == "test"


def test_glosses_do_not_name_their_word(lexicon):
    small = Lexicon(list(lexicon.synsets.values())[::20])
    pairs = build_glosses(small, IMAGES)
    assert len(pairs["train"]) > 1000
    for split, rows in pairs.items():
        for row in rows:
            names = [*small.synsets[row["synset_id"]]["lemmas"], row["title"]]
            assert row["gloss"].strip()
            assert not says(row["gloss"], hidden_stems(names)), row
            assert split_of(names)[0] == split, row


@pytest.mark.parametrize(
    ("text", "names", "said"),
    [
        ("two small bicycles", ["bicycle"], True),
        ("someone who bakes", ["baker"], True),
        ("made in a bakery", ["baker"], True),
        ("a paintbrush", ["brush"], True),
        ("a member of the cat family", ["true cat"], True),
        ("a two-wheeled vehicle", ["bicycle"], False),
        ("the art of it", ["party"], False),
        ("what is it made of?", ["cup of tea"], False),
    ],
)
def test_stems(text, names, said):
    assert says(text, hidden_stems(names)) is said


def test_glosses_read_as_speech():
    assert plain("a dog (probably old (very)); runs; ") == ["a dog", "runs"]
    assert (
        noun_phrase("any of various small birds of the forest", "noun.animal")
        == "one of those small birds of the forest"
    )
    assert noun_phrase("large African antelope", "noun.animal") == "a large African antelope"
    assert noun_phrase("x-ray machine", "noun.artifact") == "an x-ray machine"
    assert (
        noun_phrase("water frozen in the solid state", "noun.substance") == "a kind of water frozen in the solid state"
    )
    assert noun_phrase("originally a person of noble birth", "noun.person") == "originally a person of noble birth"
    assert [with_article(name) for name in ("hour", "unicorn", "scissors", "Paris", "furniture")] == [
        "an hour",
        "a unicorn",
        "scissors",
        "Paris",
        "furniture",
    ]
    pieces = plain("a vessel that carries coal; usually used on rivers; has two masts")
    assert statements(pieces, hidden_stems(["collier"])) == [
        "{it} carries coal",
        "{it_is} usually used on rivers",
        "{it} has two masts",
    ]
    assert statements(pieces, hidden_stems(["river boat"])) == ["{it} carries coal", "{it} has two masts"]


@pytest.mark.slow
def test_the_full_set():
    dialogues, pairs = loaded_or_skipped(load_dialogue_texts), load_glosses()
    lexicon = Lexicon(load_wordnet().with_format("arrow")[:].to_pylist())
    pictures = load_captioned_images()
    titles = dict(zip(pictures["image_id"], pictures["title"], strict=True))
    for split, rows in dialogues.items():
        check_rows(rows, split, lexicon, titles)
    train = dialogues["train"]
    assert len(train) >= 20_000
    assert len({turns[0]["content"] for turns in train["turns"]}) > 0.9 * len(train)
    assert sum(map(bool, train["target_picture"])) > 5_000
    assert max(Counter(train["lexname"]).values()) < 0.35 * len(train)
    assert len(pairs["train"]) > 20_000
