"""The readers of MMDialog, VisDial, VIST and PhotoChat, on files in the published formats."""

import json

import pytest

from modeling_unimur.data.dialog_schema import Turn
from modeling_unimur.data.json_lines import read_json_records
from modeling_unimur.data.mmdialog import MMDialog
from modeling_unimur.data.photochat import PhotoChat
from modeling_unimur.data.visdial import VisDial
from modeling_unimur.data.vist import VIST
from tests.data import published_files as files


# -- JSON -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "text", ['[{"a": 1}, {"b": [1, "],"]}\n]', '{"a": 1}\n{"b": [1, "],"]}\n', '\ufeff [{"a":1},{"b":[1,"],"]}]']
)
@pytest.mark.parametrize("chunk", [1, 7, 2**20])
def test_json_arrays_and_lines(tmp_path, text, chunk, monkeypatch):
    monkeypatch.setattr("modeling_unimur.data.json_lines._CHUNK", chunk)
    path = tmp_path / "records.json"
    path.write_text(text, encoding="utf-8")
    assert list(read_json_records(path)) == [{"a": 1}, {"b": [1, "],"]}]


@pytest.mark.parametrize("text", ["", "[]", " [ ] "])
def test_no_records(tmp_path, text):
    path = tmp_path / "records.json"
    path.write_text(text)
    assert list(read_json_records(path)) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [('[{"a": 1}, {"b": ', "'object 0'"), ("[1]", "no JSON object"), ("[", "whole")],
)
def test_damaged_json_names_the_place(tmp_path, text, message):
    path = tmp_path / "records.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        list(read_json_records(path))


# -- MMDialog ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("layout", ["authors", "pace"])
@pytest.mark.parametrize("split", ["valid", "val"])
@pytest.mark.parametrize("lines", [False, True])
def test_mmdialog_layouts(tmp_path, layout, split, lines):
    files.write_mmdialog(tmp_path, layout, "valid" if split == "val" and layout == "authors" else split, lines=lines)
    found = MMDialog(tmp_path, split)
    dialogs = list(found)
    assert [dialog.dialog_id for dialog in dialogs] == ["900", "901", "902", "903"]
    reply = dialogs[3].turns[1]
    assert reply == Turn(
        "1", (("text", "here is my red balloon 3"), ("image", "-100000000000000003"), ("image", "100000000000000003"))
    )
    assert found.image(reply.image_ids[0]).is_file()
    assert len(dialogs[0].negative_texts) == 3
    assert [
        (turn.speaker, dict(turn.elements).get("text", ""), list(turn.image_ids)) for turn in dialogs[0].turns
    ] == [
        ("0", "good morning :red_heart: 0", []),
        ("1", "here is my cat 0", []),
        ("0", "what a beautiful cat", []),
    ]


def test_mmdialog_reports_what_is_missing(tmp_path):
    path = files.write_mmdialog(tmp_path)
    (path.parent / "-100000000000000001.jpg").unlink()
    records = json.loads(path.read_text())
    records[2]["conversation"][1]["turn"] = []
    path.write_text(json.dumps(records))
    found = MMDialog(tmp_path, "test")
    assert len(list(found)) == 3
    report = found.report
    assert report.problems()
    assert report.found == {"dialogues": 3, "turns": 9, "images": 2}
    assert report.lost["image is missing"] == 1
    assert report.lost["malformed dialogue (a turn is empty)"] == 1
    assert report.lost["not 999 negative texts"] == 3
    line = report.describe()
    assert "3 dialogues of 10,000 published" in line
    assert "-100000000000000001.jpg" in line
    assert "902" in line


def test_mmdialog_limit(tmp_path):
    files.write_mmdialog(tmp_path)
    (first,) = MMDialog(tmp_path, limit=1)
    assert first.turns[0].elements[0][1] == "good morning :red_heart: 0"


def test_mmdialog_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"MMDialogConversations/val/simple_conversations\.json"):
        MMDialog(tmp_path, "valid")
    with pytest.raises(ValueError, match="'dev'"):
        MMDialog(tmp_path, "dev")


# -- VisDial ----------------------------------------------------------------------------------------------------------
def test_visdial_official(tmp_path):
    whole, dense = files.write_visdial(tmp_path)
    found = VisDial(tmp_path)
    dialogs = list(found)
    assert len(dialogs) == 3
    for number, dialog in enumerate(dialogs):
        record = whole["data"]["dialogs"][number]
        assert dialog.image.name == f"VisualDialog_val2018_{record['image_id']:012d}.jpg"
        assert [part.gold for part in dialog.rounds] == [turn["gt_index"] for turn in record["dialog"]]
        assert all(part.options[part.gold] == part.answer for part in dialog.rounds)
        judged = [place for place, part in enumerate(dialog.rounds) if part.relevance is not None]
        assert judged == [dense[number]["round_id"] - 1]  # the annotation counts rounds from 1
        assert dialog.rounds[judged[0]].relevance[dialog.rounds[judged[0]].gold] == 1
    assert found.report.found == {"dialogues": 3, "images": 3, "dense annotations": 3}
    assert "3 dialogues of 2,064 published" in found.report.describe()
    assert dialogs[0].image_id == "100"
    assert (dialogs[0].rounds[0].question, dialogs[0].rounds[0].answer) == ("is there a cat in the picture", "yes 0")


def test_visdial_without_answers_pictures_and_annotations(tmp_path):
    whole, _ = files.write_visdial(tmp_path)
    (tmp_path / "visdial_1.0_val_dense_annotations.json").unlink()
    (tmp_path / "VisualDialog_val2018" / "VisualDialog_val2018_000000000101.jpg").unlink()
    del whole["data"]["dialogs"][0]["dialog"][-1]["answer"]
    (tmp_path / "visdial_1.0_val.json").write_text(json.dumps(whole))
    found = VisDial(tmp_path / "visdial_1.0_val.json")
    dialogs = list(found)
    assert dialogs[0].rounds[-1].answer == ""
    assert dialogs[1].image is None
    assert found.report.lost == {"image is missing": 1, "no dense annotations": 1}


def test_visdial_as_chatir_has_it(tmp_path):
    files.write_chatir(tmp_path)
    found = VisDial(tmp_path)
    dialogs = list(found)
    assert [len(dialog.rounds) for dialog in dialogs] == [10] * 3
    assert (dialogs[1].rounds[0].question, dialogs[1].rounds[0].answer) == ("is there a cat", "yes, 0")
    assert dialogs[1].caption == "a lighthouse on a table"
    assert dialogs[1].image.is_file()
    assert dialogs[1].rounds[0].options is None


def test_visdial_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"visdial_1\.0_val\.json"):
        VisDial(tmp_path)
    (tmp_path / "visdial_1.0_val.json").write_text('{"x": 1}')
    with pytest.raises(ValueError, match="neither VisDial"):
        list(VisDial(tmp_path))


# -- VIST -------------------------------------------------------------------------------------------------------------
def test_vist(tmp_path):
    files.write_vist(tmp_path)
    found = VIST(tmp_path)
    stories = list(found)
    assert stories[1].image_ids == ("5005", "5006", "5007", "5008", "5009")
    assert stories[1].sentences[0] == "[female] saw the cat 1 ."
    assert found.image("5005").is_file()
    assert "3 stories of 4,990 published" in found.report.describe()


def test_vist_reports_what_is_missing(tmp_path):
    path = files.write_vist(tmp_path)
    (tmp_path / "images" / "val" / "5001.jpg").unlink()
    whole = json.loads(path.read_text())
    whole["annotations"].pop()
    path.write_text(json.dumps(whole))
    found = VIST(tmp_path)
    assert len(list(found)) == 2
    assert found.report.lost == {"image is missing": 1, "malformed story (not 5 sentences)": 1}
    assert found.image("5001") is None


# -- PhotoChat --------------------------------------------------------------------------------------------------------
def test_photochat(tmp_path):
    files.write_photochat(tmp_path)
    found = PhotoChat(tmp_path)
    dialogs = list(found)
    assert [dialog.dialog_id for dialog in dialogs] == ["0", "1", "2", "3"]
    assert dialogs[2].shared == 3
    assert dialogs[2].image.is_file()
    assert dialogs[2].photo_id == "test/0000000000000002"
    assert dialogs[2].turns[1][1] == "i was at the birthday cake"
    assert "4 dialogues of 1,000 published" in found.report.describe()


def test_photochat_without_a_photo_is_skipped(tmp_path):
    records = files.write_photochat(tmp_path)
    records[0]["dialogue"][3]["share_photo"] = False
    (tmp_path / "test" / "0.json").write_text(json.dumps(records[:2]))
    (tmp_path / "images" / "0000000000000001.jpg").unlink()
    found = PhotoChat(tmp_path)
    assert len(list(found)) == 3
    assert found.report.lost == {"malformed dialogue (0 turns share a photo)": 1, "image is missing": 1}
