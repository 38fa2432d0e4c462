"""WebQA's three layouts, on files in exactly their form."""

import json
import multiprocessing
import zipfile

import numpy as np
import pytest
from PIL import Image

from modeling_unimur.data.image_bytes import read_image_bytes
from modeling_unimur.data.json_lines import line_objects, object_entries
from modeling_unimur.data.registry import load_retrieval_set
from modeling_unimur.data.webqa.line_index import LineIndex, find_line_index, write_line_index
from modeling_unimur.data.webqa.load import load_webqa, webqa_layout
from modeling_unimur.image_loading import load_image
from tests.data.webqa_files import FIRST_ID, jpeg, write_mbeir, write_pictures, write_raw, write_released

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "webqa").mkdir()
    return tmp_path / "webqa"


def _pixels(address):
    return np.asarray(load_image(read_image_bytes(address), name=address))


# -- the raw files ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("indent", [None, 1])
def test_raw(folder, indent):
    write_raw(folder, indent=indent)
    write_pictures(folder, 12)
    assert webqa_layout(folder) == "raw"
    data = load_webqa(folder, num_validation=3)
    assert {split: len(table) for split, table in data.queries.items()} == {"train": 9, "validation": 3, "test": 2}
    # numpy's shuffle of the twelve training questions, its first three for validation.
    order = list(range(12))
    np.random.RandomState(1234).shuffle(order)
    assert sorted(data.queries["validation"]["query_id"]) == sorted(f"g{number}" for number in order[:3])
    documents = {row["doc_id"]: row for row in data.corpus}
    assert documents[str(FIRST_ID + 3)]["text"] == "caption of 3"
    assert documents[str(FIRST_ID + 1)]["text"] == "another caption of 1"  # its last caption
    assert documents["t0_0"]["text"] == "fact 0 of t0"
    assert str(FIRST_ID + 6) in documents  # a candidate of the test file alone
    np.testing.assert_array_equal(_pixels(documents[str(FIRST_ID + 3)]["image"]), _decoded(jpeg(3)))
    test = {row["query_id"]: row for row in data.queries["test"]}
    assert (test["v0"]["text"], test["v0"]["kind"], test["v1"]["kind"]) == ("What of v0?", "image", "text")
    assert data.relevant("test")["v0"] == {str(FIRST_ID + 1): 1, str(FIRST_ID + 3): 1}


def _decoded(data):
    return np.asarray(load_image(data))


def test_equal_texts_are_one_document_and_no_negatives(folder):
    write_raw(folder)
    merged, apart = load_webqa(folder, num_validation=3), load_webqa(folder, num_validation=3, deduplicate="none")
    same = [row["doc_id"] for row in merged.corpus if row["text"] == "The same sentence."]
    assert len(same) == 1
    assert sum(row["text"] == "The same sentence." for row in apart.corpus) == 8
    assert merged.relevant("test")["v1"] == {same[0]: 1}
    assert apart.relevant("test")["v1"] == {"v1_1": 1}
    for split in merged.queries:
        for query, documents in merged.relevant(split).items():
            assert set(documents) <= set(merged.corpus["doc_id"]), query
    negatives = {row["query_id"]: row["text"] for row in merged.hard_negatives["test"]}
    assert negatives["v1"] == ["v1_9"]
    assert {row["query_id"]: row["text"] for row in apart.hard_negatives["test"]}["v1"] == ["v1_8", "v1_9"]


def test_equal_pictures_are_one_document_on_request(folder):
    write_raw(folder)
    write_pictures(folder, 12)
    lines = (folder / "imgs.tsv").read_bytes().splitlines()
    # The picture of 5 again under 7.
    lines[7] = lines[7][:9] + lines[5][9:]
    (folder / "imgs.tsv").write_bytes(b"\n".join(lines) + b"\n")
    (folder / "imgs.lineidx").unlink()
    (folder / "imgs.lineidx.new").unlink()
    raw = json.loads((folder / "WebQA_train_val.json").read_text())
    for guid in ("g5", "g7"):
        raw[guid]["img_posFacts"][0]["caption"] = "one caption"
    (folder / "WebQA_train_val.json").write_text(json.dumps(raw))
    texts, everything = load_webqa(folder, num_validation=0), load_webqa(folder, num_validation=0, deduplicate="all")
    assert len(texts.corpus) == len(everything.corpus) + 1
    relevant = everything.relevant("train")
    assert relevant["g5"] == relevant["g7"] == {str(FIRST_ID + 5): 1}
    assert texts.relevant("train")["g7"] == {str(FIRST_ID + 7): 1}


def test_pictures_without_a_table_have_captions(folder):
    write_raw(folder)
    data = load_webqa(folder, num_validation=0)
    assert set(data.corpus["image"]) == {""}
    assert "caption of 3" in data.corpus["text"]


# -- the table of pictures --------------------------------------------------------------------------------------------
def test_both_indexes_lead_to_the_same_pictures(folder):
    write_pictures(folder, 5)
    plain = LineIndex.read(folder / "imgs.tsv", folder / "imgs.lineidx")
    named = LineIndex.read(folder / "imgs.tsv", folder / "imgs.lineidx.new")
    for number in range(5):
        address = plain.address(str(FIRST_ID + number))
        assert address == named.address(str(FIRST_ID + number))
        assert read_image_bytes(address) == jpeg(number)
    for index in (plain, named):
        for unknown in (str(FIRST_ID + 5), "x"):
            with pytest.raises(KeyError):
                index.address(unknown)


def test_truncated_picture_shows_what_there_is(folder):
    write_pictures(folder, 3, truncated=(1,))
    index = find_line_index(folder)
    whole = _decoded(jpeg(1))
    shown = _pixels(index.address(str(FIRST_ID + 1)))
    assert shown.shape == whole.shape
    np.testing.assert_array_equal(shown[:4], whole[:4])
    assert not np.array_equal(shown, whole)


def _read(address):
    return read_image_bytes(address)


def test_processes_share_no_position(folder):
    write_pictures(folder, 8)
    index = find_line_index(folder)
    addresses = [index.address(str(FIRST_ID + number)) for number in range(8)] * 8
    first = read_image_bytes(addresses[0])
    with multiprocessing.get_context("fork").Pool(4) as pool:
        found = pool.map(_read, addresses, chunksize=1)
    assert first == jpeg(0)
    assert found == [jpeg(number) for number in range(8)] * 8


def test_index_of_a_table(folder):
    write_pictures(folder, 9)
    write_line_index(folder / "imgs.tsv", folder / "made.lineidx")
    expected = sorted((folder / "imgs.lineidx.new").read_text().splitlines())
    assert (folder / "made.lineidx").read_text().splitlines() == expected


def test_index_is_made_where_there_is_none(folder):
    write_pictures(folder, 4)
    for name in ("imgs.lineidx", "imgs.lineidx.new"):
        (folder / name).unlink()
    assert read_image_bytes(find_line_index(folder).address(str(FIRST_ID + 2))) == jpeg(2)
    assert (folder / "imgs.lineidx.new").is_file()


def test_wrong_indexes(folder):
    write_pictures(folder, 4)
    for text, message in (
        ("x\ty\n", "not an index of lines"),
        ("", "not an index of lines|needs"),
        ("0\n7\n9\n", "not the index of"),
        (f"{FIRST_ID + 1}\t0\n", "not the index of"),
    ):
        (folder / "wrong").write_text(text)
        with pytest.raises(ValueError, match=message):
            LineIndex.read(folder / "imgs.tsv", folder / "wrong")
    with pytest.raises(FileNotFoundError, match="no table"):
        LineIndex.read(folder / "absent.tsv", folder / "imgs.lineidx")
    (folder / "imgs.tsv").write_bytes(b"no id\tabc\n")
    with pytest.raises(ValueError, match="byte 0"):
        write_line_index(folder / "imgs.tsv", folder / "made")
    with pytest.raises(ValueError, match="id<TAB>base64"):
        read_image_bytes(f"{folder / 'imgs.tsv'}#7")


# -- data.zip ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("zipped", [False, True])
def test_released(folder, zipped):
    write_released(folder)
    path = folder
    if zipped:
        path = folder.parent / "data.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for file in folder.iterdir():
                archive.write(file, f"data/{file.name}")
    else:
        write_pictures(folder, 4)
    assert webqa_layout(path) == "released"
    data = load_webqa(path)
    assert {split: table["query_id"][:] for split, table in data.queries.items()} == {
        "train": ["a", "b"],
        "validation": ["c"],
        "test": ["d"],
    }
    assert len(data.corpus) == 10
    # The mined negatives come before those of WebQA.
    assert data.hard_negatives["train"][0] == {"query_id": "a", "image": [str(FIRST_ID + 3)], "text": ["d4", "d2"]}
    assert data.relevant("validation") == {"c": {"d2": 1, "d3": 1}}
    if not zipped:
        picture = next(row for row in data.corpus if row["doc_id"] == str(FIRST_ID + 2))
        assert read_image_bytes(picture["image"]) == jpeg(2)


def test_released_with_verbalized_captions_and_own_negatives(folder):
    write_released(folder, mined=False)
    data = load_webqa(folder, captions="query")
    captions = [row["text"] for row in data.corpus if row["kind"] == "image"]
    assert captions[0] == f"caption 0 [SEP] what is {FIRST_ID}?"
    assert data.hard_negatives["train"][0]["text"] == ["d1"]
    with pytest.raises(FileNotFoundError, match="all_imgs_exp"):
        load_webqa(folder, captions="expanded")
    with pytest.raises(ValueError, match="expanded"):
        load_webqa(folder, captions="long")


@pytest.mark.parametrize(
    ("choices", "setting", "documents", "verbal"),
    [
        ({}, "merged", 9, False),
        ({"setting": "released"}, "released", 10, True),
        ({"captions": "query", "deduplicate": "none"}, "released", 10, True),
        ({"setting": "released", "captions": "raw"}, "own", 10, False),
        ({"captions": "query"}, "own", 9, True),
    ],
)
def test_settings_of_the_corpus(folder, choices, setting, documents, verbal):
    write_released(folder)
    path = folder / "all_docs.json"
    path.write_text(path.read_text().replace('"fact 5"', '"fact 2"'))  # a copy of a relevant document
    data = load_webqa(folder, **choices)
    assert (len(data.corpus), data.about["setting"]) == (documents, setting)
    captions = [row["text"] for row in data.corpus if row["kind"] == "image"]
    assert all(("[SEP]" in caption) == verbal for caption in captions)
    assert load_retrieval_set(f"webqa={folder}", **choices).about == data.about


@pytest.mark.parametrize("write", [write_raw, write_mbeir])
def test_captions_that_a_layout_lacks(folder, write):
    write(folder)
    for choices in ({"captions": "query"}, {"captions": "expanded"}, {"setting": "released"}):
        with pytest.raises(ValueError, match=r"data\.zip"):
            load_webqa(folder, **choices)
    assert load_webqa(folder, setting="released", captions="raw").about["deduplicate"] == "none"
    with pytest.raises(ValueError, match="merged, released"):
        load_webqa(folder, setting="paper")
    for name in ("captions", "deduplicate", "setting"):
        with pytest.raises(ValueError, match=f"{name}='released'"):
            load_retrieval_set("gimp_manual", **{name: "released"})


# -- M-BEIR -----------------------------------------------------------------------------------------------------------
def test_mbeir(folder):
    write_mbeir(folder)
    assert webqa_layout(folder) == "mbeir"
    data = load_webqa(folder)
    documents = {row["doc_id"]: row for row in data.corpus}
    assert {doc: row["kind"] for doc, row in documents.items()} == {
        **{f"9:{n}": "text" for n in (1, 2, 3)},
        **{f"9:{n}": "image" for n in (4, 5, 6)},
    }
    with Image.open(documents["9:4"]["image"]) as picture:
        assert picture.size == (64, 48)
    assert documents["9:6"]["image"] == ""  # its file is absent
    # M-BEIR gives the same number to questions of different splits.
    assert data.relevant("train")["train/9:1"] == {"9:1": 1}
    assert data.relevant("test")["test/9:1"] == {"9:2": 1, "9:3": 1}
    assert data.hard_negatives["train"][0] == {"query_id": "train/9:1", "image": ["9:4"], "text": ["9:2"]}
    assert data.queries["test"]["kind"][:] == ["text", "image"]


# -- bad input --------------------------------------------------------------------------------------------------------
def test_nothing_of_webqa(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"data\.zip"):
        load_webqa(tmp_path / "absent")
    with pytest.raises(ValueError, match=r"WebQA_train_val\.json.*all_docs\.json.*M-BEIR"):
        load_webqa(folder)
    write_released(folder)
    with pytest.raises(ValueError, match="texts"):
        load_webqa(folder, deduplicate="some")


def test_broken_files_are_named(folder):
    path = folder / "WebQA_train_val.json"
    write_raw(folder)
    text = path.read_text()
    path.write_text(text[: len(text) // 2])
    with pytest.raises(ValueError, match=r"WebQA_train_val\.json"):
        load_webqa(folder)
    path.write_text('{"g1": {"split": "train", "Q": "?"}}')
    with pytest.raises(ValueError, match="question g1"):
        load_webqa(folder)
    path.write_text('{"g1": [1, 2')
    with pytest.raises(ValueError, match="behind 'g1'"):
        list(object_entries(path))


def test_bad_lines_are_passed_over_and_counted(folder, caplog):
    path = folder / "lines"
    path.write_bytes(b'{"a": 1}\n\nno json\n[1]\n{"a": 2}\n')
    with path.open("rb") as file:
        assert list(line_objects(file, "lines")) == [{"a": 1}, {"a": 2}]
    assert "2 of 4 lines" in caplog.text
    path.write_bytes(b"no json\n")
    with path.open("rb") as file, pytest.raises(ValueError, match="1 lines"):
        list(line_objects(file, "lines"))


def test_object_entries_across_pieces(folder, monkeypatch):
    monkeypatch.setattr("modeling_unimur.data.json_lines._CHUNK", 7)
    data = {f"key {n}": {"text": "é" * n, "numbers": [n, -1.5e3, None, True]} for n in range(30)}
    data["number"] = 123456789
    path = folder / "object.json"
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False), encoding="utf-8")
    assert dict(object_entries(path)) == data
    path.write_text("{ }")
    assert list(object_entries(path)) == []
    path.write_text("[1]")
    with pytest.raises(ValueError, match=r"'\{'"):
        list(object_entries(path))


def test_tables_are_made_anew_when_a_file_changes(folder):
    write_released(folder)
    assert len(load_webqa(folder).corpus) == 10
    with (folder / "all_docs.json").open("a") as file:
        file.write(json.dumps({"snippet_id": "d9", "fact": "one more"}) + "\n")
    assert len(load_webqa(folder).corpus) == 11
