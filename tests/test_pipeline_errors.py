"""One bad dialogue or candidate costs no other, whatever is wrong with it."""

import numpy as np
import pytest
from PIL import Image
from transformers import pipeline

from tests.hits import assert_same_answer

HALF_A_PAIR = "half \ud83d a pair"


class Broken:
    """An image whose decoding fails in a way that no decoder should."""

    def __init__(self, error):
        self.error = error

    def __fspath__(self):
        raise self.error


def make(pair):
    return pipeline("multimodal-retrieval", model=pair[0], processor=pair[1])


@pytest.fixture(scope="module")
def filled(pair, pictures):
    made = make(pair)
    made.add(images=pictures, texts=["she plays guitar", "no"])
    return made


@pytest.fixture(scope="module")
def cut(pictures, tmp_path_factory):
    """A damaged file, which shows only when it is decoded."""
    path = tmp_path_factory.mktemp("cut") / "cut.png"
    with open(pictures[0], "rb") as file:
        path.write_bytes(file.read()[:300])
    return str(path)


def shown(source) -> list:
    return [{"role": "user", "content": [{"type": "image", "image": source}]}]


BAD = {
    "empty": "  ",
    "a number": 3.5,
    "nothing": None,
    "no content": [{"role": "user"}],
    "a video": [{"role": "user", "content": [{"type": "video", "video": "a.mp4"}]}],
    "half of a surrogate pair": HALF_A_PAIR,
    "an image that is not there": shown("/no/such.png"),
    "an image with a NUL in its path": shown("a\0b.png"),
    "an address": shown("https://example.com/a.png"),
    "an image of a wrong type": shown(12),
    "a path that cannot be read": shown(Broken(OSError("the share is gone"))),
}


@pytest.fixture
def runs(filled, monkeypatch):
    """Batches that the model has run."""
    seen, forward = [], filled._forward
    monkeypatch.setattr(filled, "_forward", lambda inputs: seen.append(inputs) or forward(inputs))
    return seen


@pytest.mark.parametrize("name", BAD)
def test_a_bad_dialogue_is_named_before_the_model_runs(filled, runs, name):
    with pytest.raises((ValueError, FileNotFoundError), match="Dialogue 30"):
        filled(["hi"] * 30 + [BAD[name]] + ["no"] * 10)
    assert runs == []


@pytest.mark.parametrize("as_stream", [False, True])
@pytest.mark.parametrize("num_workers", [0, 1])
def test_the_others_are_answered_where_the_bad_ones_are_skipped(filled, cut, as_stream, num_workers):
    good = [f"dialogue {n}" for n in range(40)]
    expected = filled(good, top_k=2)
    bad = {**BAD, "damaged": shown(cut)}
    places = {7 + 3 * n: name for n, name in enumerate(bad)}
    inputs, rest = [], iter(good)
    for number in range(40 + len(bad)):
        inputs.append(bad[places[number]] if number in places else next(rest))
    given = (dialogue for dialogue in inputs) if as_stream else inputs
    answers = list(filled(given, top_k=2, on_error="skip", num_workers=num_workers))
    assert len(answers) == len(inputs)
    assert {number for number, answer in enumerate(answers) if "error" in answer} == set(places)
    for number in places:
        assert answers[number].keys() == {"error"}
        assert f"Dialogue {number}" in answers[number]["error"]
    for found, wanted in zip((answer for answer in answers if "error" not in answer), expected, strict=True):
        assert_same_answer(found, wanted)


def test_batches_of_bad_dialogues_alone(filled):
    assert [set(answer) for answer in filled(["", None, "hi"], batch_size=2, on_error="skip")] == [
        {"error"},
        {"error"},
        {"text", "image"},
    ]
    assert "empty" in filled("", on_error="skip")["error"]
    chat = [{"role": "user", "content": "hi"}, {"role": "user", "content": 7}]
    assert "turn 1" in filled(chat, on_error="skip")["error"]
    assert filled(["", "hi"], modality="joint", on_error="skip")[0].keys() == {"error"}
    with pytest.raises(ValueError, match="on_error"):
        filled("hi", on_error="ignore")


def test_a_damaged_image_is_named_when_it_is_decoded(filled, cut):
    with pytest.raises(ValueError, match=r"Dialogue 3.*cut\.png"):
        filled(["hi", "no", "yes", shown(cut)], batch_size=2)
    with pytest.raises(ValueError, match=r"Dialogue 3.*cut\.png"):
        list(filled(iter(["hi", "no", "yes", shown(cut)]), batch_size=2))


def test_vectors_of_the_others(filled):
    found = filled.embed(["hi", "", "no", "yes"], batch_size=2, on_error="skip", owners=["a", "b", None, None])
    assert [getattr(row, "shape", None) for row in found] == [(24,), None, (24,), (24,)]
    assert isinstance(found[1], ValueError)
    with pytest.raises(ValueError, match="Dialogue 1"):
        filled.embed(["hi", "", "no"])


# -- candidates -------------------------------------------------------------------------------------------------------
BAD_TEXTS = {
    "half of a surrogate pair": ({"texts": HALF_A_PAIR}, "surrogate"),
    "no text": ({"texts": 7}, "int"),
    "empty": ({"texts": "\n "}, "empty"),
    "bytes": ({"texts": b"hi"}, "bytes"),
    "a text too long for an id": ({"texts": "long " * 20_000}, "bytes"),
    "an empty id": ({"text_ids": ""}, "id"),
    "an id too long": ({"text_ids": "x" * 70_000}, "bytes"),
    "half of a surrogate pair in an id": ({"text_ids": HALF_A_PAIR}, "surrogate"),
    "an id of a wrong type": ({"text_ids": 1.5}, "float"),
    "an id that is a list": ({"text_ids": ["a"]}, "list"),
    "a payload that is none": ({"text_payloads": "cc0"}, "str"),
}


@pytest.mark.parametrize("name", BAD_TEXTS)
def test_a_bad_text_is_reported_and_the_others_are_in(pair, name):
    change, word = BAD_TEXTS[name]
    columns = {
        "texts": [f"text {n}" for n in range(9)],
        "text_ids": [None] * 9,
        "text_payloads": [{"number": n} for n in range(9)],
    }
    for column, value in change.items():
        columns[column][4] = value
    made = make(pair)
    report = made.add(**columns, batch_size=5)
    assert (report["texts"], len(report["skipped"])) == (8, 1)
    assert word in report["skipped"][0]["reason"]
    hits = made("hi", modality="text", top_k=20)["text"]
    assert {(hit["id"], hit["number"]) for hit in hits} == {(f"text {n}", n) for n in range(9) if n != 4}


BAD_IMAGES = {
    "not there": "/no/such.png",
    "a NUL": "a\0b.png",
    "half of a surrogate pair": "\ud83d.png",
    "an OSError": Broken(OSError("the share is gone")),
    "any error": Broken(RuntimeError("a decoder's own")),
    "a list": [1, 2],
    "no pixels": np.zeros((0, 5, 3), np.uint8),
    "bytes of something else": b"no image",
}


def test_bad_images_are_reported_and_the_others_are_in(pair, pictures, cut):
    made = make(pair)
    bad = [cut, *BAD_IMAGES.values()]
    report = made.add(images=[pictures[0], *bad, *pictures[1:]], batch_size=4)
    assert (report["images"], len(report["skipped"])) == (4, len(bad))
    assert all(entry["reason"] and entry["item"] for entry in report["skipped"])
    assert {hit["id"] for hit in made("hi", top_k=9)["image"]} == set(pictures)


def test_an_image_that_the_processor_refuses_costs_no_other(pair, pictures, monkeypatch):
    made, process = make(pair), pair[1].process_images

    def picky(images, **options):
        if any(image.size == (7, 7) for image in images):
            raise RuntimeError("seven by seven")
        return process(images, **options)

    monkeypatch.setattr(pair[1], "process_images", picky)
    report = made.add(images=[pictures[0], Image.new("RGB", (7, 7)), pictures[1]])
    assert report == {"images": 2, "texts": 0, "skipped": [{"item": "image 1", "reason": "seven by seven"}]}


def test_an_index_that_takes_nothing_is_an_error(pair, filled, tmp_path):
    filled.save_index(tmp_path / "index")
    made = make(pair)
    made.load_index(tmp_path / "index", read_only=True)
    with pytest.raises(PermissionError):
        made.add(texts=["one more"])


def test_ids_of_none_are_made(pair, pictures):
    made = make(pair)
    nameless = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    assert made.add(texts=["hi", "no"], text_ids=[None, None])["texts"] == 2
    assert made.add(images=[pictures[0], *nameless], image_ids=[None, None, None])["images"] == 3
    hits = made("hi", top_k=9)
    assert {hit["id"] for hit in hits["text"]} == {"hi", "no"}
    assert len({hit["id"] for hit in hits["image"]}) == 3
    assert made.add(texts=["a", "b"], text_ids=[np.int64(3), 4])["texts"] == 2
    assert {hit["id"] for hit in made("hi", top_k=9)["text"]} == {"hi", "no", "3", "4"}


def test_texts_are_texts(pair, pictures):
    made = make(pair)
    texts = [
        pictures[0],
        "report.pdf",
        "look-at-this.png",
        "https://example.com/a.png",
        "data:image/png;base64,AA",
        "a\0b",
    ]
    assert made.add(texts=texts)["texts"] == len(texts)
    hits = made("hi", top_k=9, modality="text")["text"]
    assert {(hit["id"], hit["text"]) for hit in hits} == {(text, text) for text in texts}
    for number, text in enumerate(texts[1:3]):  # and in a query, if there is no such file
        assert_same_answer(made(text), made([{"role": "user", "content": text}])), number


@pytest.mark.parametrize(
    "columns",
    [
        {"images": "a.png"},
        {"texts": "hi"},
        {"texts": {"hi": 1}},
        {"images": np.zeros((4, 4, 3), np.uint8)},
        {"texts": ["a"], "text_ids": "a"},
        {"texts": ["a"], "text_ids": ["a", "b"]},
        {"text_ids": ["a"]},
        {"images": ["a.png"], "captions": "c"},
        {"images": ["a.png"], "image_payloads": []},
    ],
)
def test_columns_that_are_no_columns(pair, columns):
    with pytest.raises(ValueError, match=r"list|agree"):
        make(pair).add(**columns)
