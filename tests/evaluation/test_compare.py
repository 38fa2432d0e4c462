"""Comparing systems on the same dialogues: the figures, a person's own files, the report."""

import json
from pathlib import Path

import numpy as np
import pytest

from modeling_unimur.evaluation.compare import compare
from modeling_unimur.evaluation.compare_dialogues import ComparedDialogue, load_compared, read_dialogues_file
from modeling_unimur.evaluation.compare_report import aligned, differences, markdown, notes, table, write
from modeling_unimur.evaluation.systems import BM25, Gallery, RetrievalSystem, Weights


class Fixed(RetrievalSystem):
    """Scores that are given, one row a dialogue; a dialogue says its row."""

    sees = "nothing"

    def __init__(self, name, text, image):
        self.name, self.table = name, {"text": np.array(text), "image": np.array(image)}

    def index(self, gallery):
        self.gallery = gallery

    def encode_queries(self, dialogues):
        return [int(messages[0]["content"][0]["text"]) for messages in dialogues]

    def scores(self, queries, kind):
        return self.table[kind][queries]

    def weights(self):
        return Weights(beyond=2_000_000, total=3_000_000)


def dialogue(number, turns, text, images=()):
    messages = tuple({"role": "user", "content": [{"type": "text", "text": str(number)}]} for _ in range(turns))
    return ComparedDialogue(f"d{number}", messages, text, tuple(images))


GALLERY = Gallery(("yes", "no"), ("a", "b", "c"), ("a.png", "b.png", "c.png"), ("", "", ""))
DIALOGUES = [dialogue(0, 1, "yes", "a"), dialogue(1, 3, "no", "bc"), dialogue(2, 4, None, "c"), dialogue(3, 2, "no")]


@pytest.fixture
def comparison():
    good = Fixed("good", [[1, 0], [0, 1], [0, 0], [1, 0]], [[3, 2, 1], [3, 1, 2], [2, 3, 1], [0, 0, 0]])
    poor = Fixed("poor", [[0, 1], [1, 0], [0, 0], [1, 0]], [[1, 2, 3], [1, 1, 1], [2, 3, 1], [0, 0, 0]])
    return compare(DIALOGUES, GALLERY, [good, poor])


def test_ranks_and_recalls(comparison):
    good, poor = comparison.systems
    assert good.ranks == {"text": [1, 1, None, 2], "image": [1, 2, 3, None]}
    assert poor.ranks == {"text": [2, 2, None, 2], "image": [3, 2, 3, None]}  # equal scores stand before the right one
    assert good.recalls["text"]["r1"]["mean"] == pytest.approx(200 / 3)
    assert good.recalls["image"]["r5"]["mean"] == 100
    interval = good.recalls["image"]["r1"]
    assert interval["mean"] == pytest.approx(100 / 3)
    assert interval["low"] <= interval["mean"] <= interval["high"]
    assert good.by_turns["image"]["long"] == {"r1": 0, "r5": 100, "r10": 100, "dialogues": 2}
    assert good.by_turns["text"]["short"] == {"r1": 50, "r5": 100, "r10": 100, "dialogues": 2}
    assert comparison.judged == {"text": 3, "image": 3}
    assert (good.megabytes_beyond, good.megabytes_total) == (2, 3)
    assert good.milliseconds > 0


def test_consistency_looks_at_the_first_of_each_kind(comparison):
    # Two dialogues have both. "yes" and a are right for the first, "no" and c for the second, "no" and a for none.
    good, poor = comparison.systems
    assert good.consistent == [100.0, 0.0]
    assert poor.consistent == [100.0, 100.0]  # each the other's
    assert compare(DIALOGUES[2:3], GALLERY, [Fixed("x", [[1, 0]] * 3, [[1, 0, 0]] * 3)]).systems[0].consistent is None


def test_differences_are_paired(comparison):
    found = comparison.difference("good", "poor", "text", 1)
    assert found["mean"] == pytest.approx(200 / 3)
    line = differences(comparison, "good", "poor")[0]
    assert line.startswith("text R@10, good minus poor: +0.0 points")
    assert "no difference is shown" in line


def test_what_cannot_be_compared():
    system = Fixed("one", [[1, 0]], [[1, 0, 0]])
    with pytest.raises(ValueError, match="a system"):
        compare([], GALLERY, [system])
    with pytest.raises(ValueError, match="one name"):
        compare(DIALOGUES[:1], GALLERY, [system, system])


def test_dialogues_without_a_gold_text_are_judged_by_pictures_alone():
    found = compare(DIALOGUES[2:3], GALLERY, [Fixed("one", np.zeros((3, 2)), np.eye(3))], timed=False)
    assert set(found.systems[0].recalls) == {"image"}
    assert found.systems[0].milliseconds is None
    assert "text" not in aligned(table(found, False)).splitlines()[0]


def test_report(comparison, tmp_path):
    comparison.left_out = {"BM25": "not installed"}
    shown = aligned(table(comparison, intervals=False)).splitlines()
    assert shown[0].split()[:3] == ["system", "image", "R@1"]
    assert shown[2].startswith("good")
    assert len({len(line) for line in shown}) == 1
    text = "\n".join(notes(comparison))
    assert "good sees nothing." in text
    assert "BM25 is left out: not installed" in text
    assert "4 dialogues, 3 images and 2 texts" in text
    paths = write(comparison, tmp_path / "out", "A title", {"model": "m"})
    assert paths[0].read_text() == markdown(comparison, "A title")
    assert "| good | 33.3 [0, 100] |" in paths[0].read_text()
    kept = json.loads(paths[1].read_text())
    assert kept["model"] == "m"
    assert kept["systems"][0]["ranks"]["text"] == [1, 1, None, 2]


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
    found = compare(dialogues, gallery, [BM25()])
    assert found.systems[0].ranks["image"] == [1, None]


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
    monkeypatch.setattr("modeling_unimur.data.chats.load_chats", lambda split: [row | {"target_text": f"of {split}"}])
    (found,), gallery = load_compared("chats")
    assert found.messages == ({"role": "user", "content": [{"type": "text", "text": "hi"}]},)
    assert (found.right_text, found.right_images, gallery.texts, gallery.images) == ("of test", (), ("of test",), ())
    with pytest.raises(ValueError, match="gallery"):
        load_compared("chats", "folder")


def test_files_that_are_not_there(tmp_path, own):
    with pytest.raises(FileNotFoundError, match="no dialogues"):
        load_compared(tmp_path / "none.jsonl")
    with pytest.raises(ValueError, match="no dialogue"):
        load_compared(own[1](""))
    with pytest.raises(ValueError, match="own gallery"):
        load_compared("dev", tmp_path)


def test_a_picture_that_cannot_be_read_is_left_out(own, caplog):
    folder, write_lines = own
    (folder / "p3.png").write_bytes(b"no picture")
    _, gallery = read_dialogues_file(write_lines({"turns": TURNS, "gold_text": "y"}), folder)
    assert gallery.image_ids == ("p0.png", "p1.png", "p2.png")
    assert "Left out 1 images" in caplog.text
