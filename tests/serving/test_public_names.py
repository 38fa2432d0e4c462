"""Answers do not say where files lie."""

import json
from pathlib import PurePosixPath

import pytest

from modeling_unimur.serving.public_names import PublicNames

NAMES = PublicNames(["/data/photos"])


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("/data/photos/a/b.png", "a/b.png"),
        ("/data/photos/x.tar#512+99", "x.tar#512+99"),
        ("a/b.png", "a/b.png"),
        ("b.png", "b.png"),
        ("https://example.org/data/photos/b.png", "https://example.org/data/photos/b.png"),
        ("and/or", "and/or"),
        ("/", "/"),
        ("/ slash", "/ slash"),
    ],
)
def test_names_are_relative(value, shown):
    assert NAMES.name(value) == shown


@pytest.mark.parametrize(
    "value",
    ["/home/me/b.png", "/data/photos2/b.png", "C:\\Users\\me\\b.png", "c:/Users/me/b.png", "\\\\host\\me\\b.png",
     "file:///home/me/b.png", "~/me/b.png"],
)  # fmt: skip
def test_other_paths_become_a_name(value):
    shown = NAMES.name(value)
    assert PurePosixPath(shown).name == "b.png"
    assert "me" not in shown.split("/")
    assert shown != NAMES.name(value.replace("b.png", "x/b.png"))


def test_a_hit():
    hit = {
        "id": "/data/photos/a.png", "score": 0.5, "image": "/data/photos/a.png", "caption": "/ok/ is a word",
        "more": {"files": ["/etc/x.png", 3], "n": float("nan"), "m": None}, "half": "\ud800",
    }  # fmt: skip
    shown = NAMES.hit(hit)
    assert (shown["id"], shown["image"], shown["score"]) == ("a.png", "a.png", 0.5)
    assert shown["caption"] == hit["caption"]
    assert shown["more"]["files"][0].endswith("/x.png")
    assert shown["more"]["n"] is None
    json.dumps(shown, allow_nan=False).encode()
    text = {"id": "/me waves/", "score": 0.1, "text": "/me waves/"}
    assert NAMES.hit(text) == text
    assert PublicNames(shows_paths=True).hit(hit)["id"] == hit["id"]
