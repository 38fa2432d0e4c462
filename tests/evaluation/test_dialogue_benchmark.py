"""The hand-written dialogues keep their writing rules; the loader resolves their images."""

from collections import Counter

import pytest

from modeling_unimur.data.captioned_images import image_dataset, load_captioned_images
from modeling_unimur.data.titles import split_of_title
from modeling_unimur.evaluation.compare_dialogues import (
    GALLERY_SPLITS,
    benchmark_gallery,
    gallery_ids,
    own_dialogues,
    read_own,
)
from tests.installable import loaded_or_skipped
from unimur_mini.dialogues.stems import hidden_stems, says

SPLITS = tuple(GALLERY_SPLITS)
BOTH = [(split, record) for split in SPLITS for record in read_own(split)]
KINDS = {
    "correction",
    "description",
    "picture-in-context",
    "question-answer",
    "statement",
    "topic-switch",
}


def texts(record) -> str:
    return "\n".join(part["text"] for turn in record["turns"] for part in turn["content"] if part["type"] == "text")


def context_pictures(record) -> "list[str]":
    return [part["image"] for turn in record["turns"] for part in turn["content"] if part["type"] == "image"]


def broken(rule) -> "list[str]":
    """Ids of the dialogues that do not keep a rule."""
    return [record["dialogue_id"] for _, record in BOTH if not rule(record)]


@pytest.fixture(scope="module")
def titles():
    """Titles of all pictures by id."""
    pictures = loaded_or_skipped(load_captioned_images)
    if len(set(pictures["source"])) < 3:
        pytest.skip("a source of images is not available on this system")
    return dict(zip(pictures["image_id"], pictures["title"], strict=True))


@pytest.fixture(scope="module")
def galleries(titles):
    return {split: benchmark_gallery(split) for split in SPLITS}


@pytest.mark.parametrize("split", SPLITS)
def test_a_hundred_dialogues_numbered_in_order(split):
    ids = [record["dialogue_id"] for record in read_own(split)]
    assert ids == [f"{split}-{number:03d}" for number in range(1, 101)]


def test_speakers_take_turns_and_the_user_spoke_last():
    def alternate(record):
        roles = [turn["role"] for turn in record["turns"]]
        return 2 <= len(roles) <= 6 and roles[::-1] == (["user", "assistant"] * 3)[: len(roles)]

    assert broken(alternate) == []


def test_every_turn_says_something():
    """A picture alone is no turn: the dialogue refers to it."""
    assert (
        broken(lambda record: all(any(part["type"] == "text" for part in t["content"]) for t in record["turns"])) == []
    )


def test_replies_are_short_and_distinct():
    replies = Counter(record["gold_text"].casefold() for _, record in BOTH)
    assert replies.most_common(1)[0][1] == 1
    assert broken(lambda record: 3 <= len(record["gold_text"].split()) <= 15) == []


def test_no_picture_is_wanted_twice():
    wanted = Counter(record["gold_image"] for _, record in BOTH)
    assert wanted.most_common(1)[0][1] == 1


def test_pictures_of_the_context_are_not_the_answer():
    assert broken(lambda r: not {r["gold_image"], *r["right_images"]} & set(context_pictures(r))) == []


def test_right_pictures_are_other_than_the_gold_one():
    assert broken(lambda r: len({r["gold_image"], *r["right_images"]}) == 1 + len(r["right_images"])) == []


def test_all_pictures_are_in_the_gallery():
    ids = {split: set(gallery_ids(split)) for split in SPLITS}
    for split, record in BOTH:
        for name in (record["gold_image"], *record["right_images"], *context_pictures(record)):
            assert name in ids[split], (record["dialogue_id"], name)


@pytest.mark.parametrize(("split", "pictures"), [("dev", 300), ("test", 619)])
def test_no_picture_of_a_gallery_is_for_training(split, pictures, titles, galleries):
    ids = gallery_ids(split)
    assert len(ids) == len(set(ids)) == pictures
    assert {split_of_title(titles[name]) for name in ids} == {GALLERY_SPLITS[split]}
    assert galleries[split]["image_id"] == ids


def test_the_thing_is_not_named_before_the_reply(titles):
    def hidden(record):
        shown = (record["gold_image"], *record["right_images"])
        return hidden_stems([*(titles[name] for name in shown), *record["names"]])

    assert broken(lambda record: not says(texts(record), hidden(record))) == []


def test_replies_do_not_repeat_the_title(titles):
    def content(text):
        return hidden_stems([text])

    assert broken(lambda record: content(record["gold_text"]) - content(titles[record["gold_image"]])) == []


@pytest.mark.parametrize("split", SPLITS)
def test_counts_of_kinds(split):
    records = read_own(split)
    kinds = Counter(record["kind"] for record in records)
    assert kinds.keys() <= KINDS
    assert sum(bool(context_pictures(record)) for record in records) >= 20
    assert kinds["topic-switch"] >= 10
    assert kinds["correction"] >= 10
    topics = Counter(record["topic"] for record in records)
    assert {"animals", "food", "tools", "people", "places", "symbols", "weather", "sport", "emotions"} <= topics.keys()
    assert max(topics.values()) <= 25


@pytest.mark.parametrize("split", SPLITS)
def test_dialogues_carry_paths(split, galleries):
    records = read_own(split)
    dialogues, gallery = own_dialogues(split)
    assert [dialogue.dialogue_id for dialogue in dialogues] == [record["dialogue_id"] for record in records]
    paths = dict(zip(galleries[split]["image_id"], galleries[split]["image"], strict=True))
    assert dict(zip(gallery.image_ids, gallery.images, strict=True)) == paths
    assert gallery.texts == tuple(record["gold_text"] for record in records)
    for dialogue, record in zip(dialogues, records, strict=True):
        assert dialogue.right_images == (record["gold_image"], *record["right_images"])
        assert dialogue.right_text == record["gold_text"]
        shown = [p["image"] for m in dialogue.messages for p in m["content"] if p["type"] == "image"]
        assert shown == [paths[name] for name in context_pictures(record)]
        assert len(dialogue.messages) == len(record["turns"])


def test_a_gallery_without_the_images_is_refused(monkeypatch):
    row = dict.fromkeys(("title", "description", "source", "license", "author"), "")
    images = image_dataset([{**row, "image_id": gallery_ids("dev")[0], "image": "a.png", "tags": []}])
    monkeypatch.setattr("modeling_unimur.data.captioned_images.load_captioned_images", lambda: images)
    with pytest.raises(ValueError, match=r"^299 images"):
        own_dialogues("dev")


@pytest.mark.parametrize("read", [read_own, gallery_ids, benchmark_gallery, own_dialogues])
def test_an_unknown_part_is_refused(read):
    with pytest.raises(ValueError, match="'validation'"):
        read("validation")


def test_records_are_of_one_form():
    """Of the form that the writing rules are checked by; `read_dialogues_file` takes more."""
    fields = {"dialogue_id", "gold_image", "gold_text", "topic", "kind", "right_images", "names", "turns"}
    assert broken(lambda record: record.keys() == fields) == []
    named = ("dialogue_id", "gold_image", "gold_text", "topic", "kind")
    assert broken(lambda record: all(isinstance(record[name], str) and record[name].strip() for name in named)) == []
    assert broken(lambda r: all(isinstance(text, str) for text in (*r["right_images"], *r["names"]))) == []

    def part_is_whole(part):
        return (
            part.keys() == {"type", part["type"]} and part["type"] in ("text", "image") and part[part["type"]].strip()
        )

    assert broken(lambda r: all(t["content"] and all(map(part_is_whole, t["content"])) for t in r["turns"])) == []
