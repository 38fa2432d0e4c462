"""Dialogues to compare systems on: those of the package, real chats, and a person's own files."""

import json
from pathlib import Path

import numpy as np
import pytest

from modeling_unimur.evaluation.compare_dialogues import chat_dialogues, load_compared, read_dialogues_file
from modeling_unimur.evaluation.systems import BM25, ClipSpace, ClipText
from modeling_unimur.evaluation.tasks.dialogues import compare_systems


# -- a person's own file ----------------------------------------------------------------------------------------------
@pytest.fixture
def own(tmp_path, pictures):
    """A folder of pictures with captions, and a way to write dialogues beside it."""
    folder = tmp_path / "gallery"
    folder.mkdir()
    for number, path in enumerate(pictures):
        (folder / f"p{number}.png").write_bytes(Path(path).read_bytes())
    (folder / "captions.tsv").write_text("".join(f"p{n}.png\tpicture of guitar {n}\n" for n in range(4)))

    def write_lines(*records):
        path = tmp_path / "mine.jsonl"
        path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in records) + "\n")
        return path

    return folder, write_lines


def test_own_dialogues(own):
    folder, write_lines = own
    path = write_lines(
        {"turns": [{"role": "user", "content": "play guitar 2"}], "gold_image": "p2.png", "right_images": ["p1.png"]},
        {
            "dialogue_id": "mine",
            "turns": [
                {"role": "user", "content": [{"type": "image", "image": "p0.png"}, {"type": "text", "text": "this?"}]}
            ],
            "gold_text": "yes",
        },
    )
    dialogues, gallery = read_dialogues_file(path, folder)
    assert gallery.image_ids == ("p0.png", "p1.png", "p2.png", "p3.png")
    assert gallery.image_words[2] == "picture of guitar 2"
    assert gallery.texts == ("yes",)
    assert [d.dialogue_id for d in dialogues] == ["1", "mine"]
    assert dialogues[0].right_images == ("p2.png", "p1.png")
    assert dialogues[0].right_text is None
    assert dialogues[1].messages[0]["content"][0]["image"] == str(folder / "p0.png")
    found = compare_systems(dialogues, gallery, [BM25()], timed=False)
    np.testing.assert_array_equal(found.systems["BM25"].values["image r1"], [100, np.nan])


def test_without_a_gallery_the_wanted_pictures_compete(own):
    _, write_lines = own
    turns = [{"role": "user", "content": "x"}]
    path = write_lines(*({"turns": turns, "gold_image": f"gallery/p{n}.png"} for n in (3, 1)))
    dialogues, gallery = load_compared(path)
    assert gallery.image_ids == ("gallery/p3.png", "gallery/p1.png")
    assert dialogues[1].right_images == ("gallery/p1.png",)


TURNS = [{"role": "user", "content": "x"}]


@pytest.mark.parametrize(
    ("record", "named"),
    [
        ("{", "line 1"),
        ({"gold_text": "y"}, "turns"),
        ({"turns": TURNS}, "gold_image"),
        ({"turns": TURNS, "gold_text": " "}, "not empty"),
        ({"turns": TURNS, "gold_text": "y", "right_images": "p1.png"}, "right_images"),
        ({"turns": ["x"], "gold_text": "y"}, "line 1"),
        ({"turns": [{"role": "user", "content": [{"type": "sound"}]}], "gold_text": "y"}, "line 1, turn 0"),
        ({"turns": TURNS, "gold_image": "p9.png"}, "p9.png"),
        (
            {"turns": [{"role": "user", "content": [{"type": "image", "image": "no.png"}]}], "gold_text": "y"},
            "no.png",
        ),
    ],
)
def test_a_bad_dialogue_is_named(record, named, own):
    folder, write_lines = own
    with pytest.raises((ValueError, FileNotFoundError), match=named):
        read_dialogues_file(write_lines(record), folder)


def test_real_chats_compete_for_their_replies(monkeypatch):
    row = {"dialogue_id": "c/1", "turns": [{"role": "user", "content": "hi"}], "target_text": "hello to you"}
    monkeypatch.setattr("unimur_mini.chats.load_chats", lambda: {"test": [row | {"target_text": "of test"}]})
    (found,), gallery = load_compared("chats")
    assert found.messages == ({"role": "user", "content": [{"type": "text", "text": "hi"}]},)
    assert (found.right_text, found.right_images, gallery.texts, gallery.images) == ("of test", (), ("of test",), ())
    with pytest.raises(ValueError, match="gallery"):
        load_compared("chats", "folder")
    with pytest.raises(ValueError, match="'dev'"):
        chat_dialogues("dev")


def test_files_that_are_not_there(tmp_path, own):
    with pytest.raises(FileNotFoundError, match="no dialogues"):
        load_compared(tmp_path / "none.jsonl")
    with pytest.raises(ValueError, match="no dialogue"):
        load_compared(own[1](""))
    with pytest.raises(ValueError, match="own gallery"):
        load_compared("dev", tmp_path)


def test_a_picture_that_cannot_be_read_is_no_candidate(own, pair):
    folder, write_lines = own
    (folder / "p3.png").write_bytes(b"no picture")
    dialogues, gallery = read_dialogues_file(write_lines({"turns": TURNS, "gold_text": "y"}), folder)
    assert gallery.image_ids == ("p0.png", "p1.png", "p2.png", "p3.png")
    found = compare_systems(dialogues, gallery, [ClipText(ClipSpace(*pair))], timed=False)
    assert any("1 images cannot be read, such as p3.png" in note for note in found.notes)
