"""The files that the demo reads: what is accepted, and errors that name the line."""

import json
from itertools import pairwise
from pathlib import Path

import pytest

from modeling_unimur.cli.errors import CommandError
from modeling_unimur.cli.gallery import GalleryImage
from unimur_mini.demo.inputs import EXAMPLE_DIALOGUES, EXAMPLE_REPLIES, read_dialogues, read_replies
from unimur_mini.demo.results import Turn

USER = {"role": "user", "content": "hello"}


def write(path, *records):
    path.write_text("\n".join(json.dumps(record) for record in records), encoding="utf-8")
    return path


def test_the_example_replies_are_many_short_and_distinct():
    lines = EXAMPLE_REPLIES.read_text(encoding="utf-8").splitlines()
    assert read_replies(EXAMPLE_REPLIES) == lines
    assert len(lines) >= 220
    assert all(5 <= len(line.split()) <= 15 for line in lines)


def test_the_example_dialogues_are_multi_turn_and_alternate():
    dialogues = read_dialogues(EXAMPLE_DIALOGUES)
    assert len(dialogues) == 10
    for dialogue in dialogues:
        roles = [message["role"] for message in dialogue.messages]
        assert 3 <= len(roles) <= 6
        assert all(first != second for first, second in pairwise(roles))
        assert roles[-1] == "user"
        # OpenMoji is the one collection that every system can have.
        assert all(image_id.startswith("openmoji/") for image_id in dialogue.image_ids())
    assert sum(bool(dialogue.image_ids()) for dialogue in dialogues) >= 3
    assert len({dialogue.title for dialogue in dialogues}) == 10


def test_the_examples_hold_images_that_install_on_every_system():
    shown = [image_id for dialogue in read_dialogues(EXAMPLE_DIALOGUES) for image_id in dialogue.image_ids()]
    assert len(shown) >= 3
    assert {image_id.partition("/")[0] for image_id in shown} == {"openmoji"}


def test_pictures_are_resolved_for_the_eye_and_for_the_model(tmp_path):
    (tmp_path / "near.png").write_bytes(b"x")
    content = [
        {"type": "text", "text": "look"},
        {"type": "image", "image_id": "openmoji/1F33B"},
        {"type": "image", "image": "near.png"},
    ]
    messages = [USER, {"role": "assistant", "content": "yes?"}, {"role": "user", "content": content}]
    (dialogue,) = read_dialogues(write(tmp_path / "d.jsonl", {"title": "t", "messages": messages}))
    assert dialogue.image_ids() == ["openmoji/1F33B"]
    sunflower = GalleryImage(Path("/somewhere/1F33B.png"), "sunflower", "openmoji")
    turns, asked = dialogue.resolved({"openmoji/1F33B": sunflower})
    near = tmp_path / "near.png"
    assert turns == (
        Turn("user", ("hello",)),
        Turn("assistant", ("yes?",)),
        Turn("user", ("look", sunflower, GalleryImage(near, "near"))),
    )
    assert asked[:2] == [
        {"role": "user", "content": [{"type": "text", "text": "hello"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "yes?"}]},
    ]
    assert asked[2]["content"] == [
        {"type": "text", "text": "look"},
        {"type": "image", "image": str(sunflower.path)},
        {"type": "image", "image": str(near)},
    ]


def test_a_dialogue_without_a_title_is_numbered(tmp_path):
    path = write(tmp_path / "d.jsonl", {"messages": [USER]}, {"messages": [USER], "title": "named"})
    assert [dialogue.title for dialogue in read_dialogues(path)] == ["Dialogue 1", "named"]


@pytest.mark.parametrize(
    ("record", "named"),
    [
        ([], "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "role"),
        ({"messages": [{"role": "user", "content": []}]}, "empty"),
        ({"messages": [{"role": "user", "content": 3}]}, "content"),
        ({"messages": [{"role": "user", "content": [{"type": "video"}]}]}, "part"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "image": "gone.png"}]}]}, "gone.png"),
        ({"messages": [USER, {"role": "assistant", "content": "bye"}]}, "user's"),
    ],
)
def test_a_bad_line_is_named(tmp_path, record, named):
    path = write(tmp_path / "d.jsonl", {"messages": [USER]}, record)
    with pytest.raises(CommandError, match=r"line 2: .*" + named):
        read_dialogues(path)


def test_a_line_that_is_no_json_is_named(tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_text('{"messages": [')
    with pytest.raises(CommandError, match="line 1"):
        read_dialogues(path)


def test_replies_lose_blanks_and_repeats_and_keep_their_order(tmp_path):
    path = tmp_path / "r.txt"
    path.write_bytes("\ufeffb one\r\n\r\n  a two \nb one\n\u2028c\n".encode())
    assert read_replies(path) == ["b one", "a two", "c"]


@pytest.mark.parametrize("reader", [read_replies, read_dialogues])
@pytest.mark.parametrize(("content", "message"), [(b"\n \n", "holds no"), (b"\xff\xfe\xff", "UTF-8")])
def test_files_without_content_or_in_another_coding_are_refused(tmp_path, reader, content, message):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(CommandError, match=message):
        reader(path)
    with pytest.raises(CommandError, match="cannot read"):
        reader(tmp_path)
