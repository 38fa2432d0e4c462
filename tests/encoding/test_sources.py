"""What every source lists: kinds, ids, payloads, contents, and what is wrong with the rest."""

import io
import json
import os
import tarfile

import numpy as np
import pytest
from PIL import Image

from modeling_unimur.encoding.items import BadItem, Item, read_content
from modeling_unimur.encoding.sources import list_items
from tests.encoding.corpora import image_folder, picture


def png(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (9, 9, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def listed(source) -> tuple[list[Item], dict[str, str]]:
    found = list(list_items(source))
    bad = {item.item: item.reason for item in found if isinstance(item, BadItem)}
    return [item for item in found if isinstance(item, Item)], bad


def test_a_folder_of_pictures(tmp_path):
    folder = image_folder(tmp_path / "p", 4)
    (folder / "notes.md").write_text("no picture")
    picture(folder / ".hidden" / "x.png", 9)
    (folder / "gone.png").symlink_to(tmp_path / "nowhere.png")
    items, bad = listed(folder)
    assert [item.id for item in items] == ["a/0.png", "a/2.png", "b/1.png", "b/3.png"]
    assert json.loads(items[0].payload) == {"image": str(folder / "a" / "0.png")}
    assert read_content(items[0]) == (folder / "a" / "0.png").read_bytes()
    assert list(bad) == ["gone.png"]
    before = {item.id: item.stamp for item in items}
    os.utime(folder / "b" / "1.png", (1, 1))
    after = {item.id: item.stamp for item in listed(folder)[0]}
    assert [item for item in before if before[item] != after[item]] == ["b/1.png"]


def test_a_name_that_is_no_unicode(tmp_path):
    folder = os.fsencode(tmp_path / "p")
    os.mkdir(folder)
    with open(os.path.join(folder, b"caf\xe9.png"), "wb") as file:
        file.write(png(0))
    (item,), bad = listed(tmp_path / "p")
    assert item.id == "caf\\udce9.png"
    assert read_content(item) == png(0)
    assert bad == {}


def tar_file(path, members: dict) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            about = tarfile.TarInfo(name)
            about.size = len(data)
            tar.addfile(about, io.BytesIO(data))


def test_webdataset_archives(tmp_path):
    tar_file(
        tmp_path / "00000.tar",
        {
            "000.png": png(0), "000.json": json.dumps({"caption": "a  cat", "year": 2020, "nan": None}).encode(),
            "x/001.jpg": png(1), "x/001.txt": b"a dog\n", "002.txt": b"words alone", "003.cls": b"7",
            "004.json": b"[" * 100_000 + b"]" * 100_000, "005.json": b"\xff",
        },
    )  # fmt: skip
    tar_file(tmp_path / "00001.tar", {"000.png": png(2)})
    with open(tmp_path / "00001.tar", "rb+") as file:
        file.truncate(700)
    items, bad = listed(str(tmp_path / "{00000..00002}.tar"))
    assert [(item.kind, item.id) for item in items] == [
        ("image", "00000.tar/000"),
        ("image", "00000.tar/x/001"),
        ("text", "00000.tar/002"),
    ]
    assert [read_content(item) for item in items] == [png(0), png(1), b"words alone"]
    first = json.loads(items[0].payload)
    assert (first.pop("image").partition("#")[0], first) == (
        str(tmp_path / "00000.tar"),
        {"caption": "a cat", "year": 2020},
    )
    assert {"00000.tar/003", "00000.tar/004", "00000.tar/005"} <= bad.keys()
    assert {reason.partition(":")[0] for reason in bad.values()} >= {"archive is missing", "archive is damaged"}


def test_lines(tmp_path):
    picture(tmp_path / "pictures" / "a.png", 0)
    lines = [
        {"id": "t1", "text": "hello", "lang": "en", "list": [1, {"x": None}]},
        {"text": "no id"},
        "a text alone",
        {"id": 7, "image": "pictures/a.png", "text": "a caption", "licence": "cc0"},
        {"id": "gone", "image": "pictures/b.png"},
        {"id": "empty", "text": "  "},
        {"id": "neither"},
        {"id": "long", "text": "x" * 70_000},
        17,
    ]
    path = tmp_path / "items.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + "\n{broken\n", encoding="utf-8")
    items, bad = listed(path)
    assert [(item.kind, item.id) for item in items] == [
        ("text", "t1"), ("text", "items.jsonl:2"), ("text", "items.jsonl:3"), ("image", "7"),
    ]  # fmt: skip
    assert json.loads(items[0].payload) == {"text": "hello", "lang": "en", "list": [1, {"x": None}]}
    image = str(tmp_path / "pictures" / "a.png")
    assert json.loads(items[3].payload) == {"image": image, "caption": "a caption", "licence": "cc0"}
    assert set(bad) == {"gone", "empty", "neither", "long", "items.jsonl:9", "items.jsonl:10"}
    (tmp_path / "words.txt").write_text("one\n\ntwo\n", encoding="utf-8")
    assert [(item.id, item.content) for item in listed(tmp_path / "words.txt")[0]] == [
        ("words.txt:1", "one"), ("words.txt:3", "two"),
    ]  # fmt: skip


def test_parquet_tables(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    rows = {"id": [f"r{n}" for n in range(5)], "text": ["c0", None, "c2", "c3", "c4"], "year": list(range(5))}
    cells = [{"bytes": png(n), "path": None} for n in range(4)] + [{"bytes": None, "path": None}]
    (tmp_path / "t").mkdir()
    pq.write_table(pa.table({**rows, "image": cells}), tmp_path / "t" / "a.parquet", row_group_size=2)
    pq.write_table(pa.table({"text": ["only", "texts"]}), tmp_path / "t" / "b.parquet")
    (tmp_path / "t" / "c.parquet").write_bytes(b"no table")
    items, bad = listed(tmp_path / "t")
    names = [item.id for item in items]
    assert names == ["r0", "r1", "r2", "r3", "r4", "b.parquet:0", "b.parquet:1"]
    assert [read_content(item) for item in items[:4]] == [png(n) for n in range(4)]
    assert (items[4].kind, items[4].content) == ("text", "c4")
    fields = json.loads(items[2].payload)
    assert (fields["caption"], fields["year"]) == ("c2", 2)
    assert [item.content for item in items[5:]] == ["only", "texts"]
    assert list(bad) == [str(tmp_path / "t" / "c.parquet")]


def test_what_is_no_source(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        list_items(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"\{0\.\.3\}\.tar"):
        list_items(tmp_path / "{0..3}.tar")
    (tmp_path / "x.docx").write_text("x")
    with pytest.raises(ValueError, match=r"\.docx"):
        list_items(tmp_path / "x.docx")
