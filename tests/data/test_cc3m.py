"""Conceptual Captions in the forms that people have, in small files of exactly those forms."""

import hashlib
import io
import json
import os
import pickle
import tarfile
import time
import zlib
from pathlib import Path

import pytest
from PIL import Image

from modeling_unimur.data.cc3m import load_cc3m, read_cc3m, read_tsv
from modeling_unimur.data.image_bytes import read_image_bytes
from modeling_unimur.data.img2dataset import CaptionedImage, Skipped, expand_braces, find_archives, read_archives
from modeling_unimur.image_loading import load_image

pytestmark = pytest.mark.usefixtures("cache")

URLS = [f"http://pictures.example/{number}/a b.jpg?x={number}" for number in range(6)]
WORDS = ["a cat on a mat", 'the sign says " open "', "café by the sea", "line\u2028separator", "a dog", "two birds"]


def picture(number: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (6, 4), (number * 20, 0, 0)).save(file, "PNG")
    return file.getvalue()


def official(folder, name, pictures, missing=(3,)):
    """Google's file, and a downloader's folder in which some pictures are missing."""
    (folder / pictures).mkdir(parents=True)
    path = folder / "Train_GCC-training.tsv"
    path.write_text("".join(f"{words}\t{url}\n" for words, url in zip(WORDS, URLS, strict=True)), encoding="utf-8")
    for number, url in enumerate(URLS):
        if number not in missing:
            (folder / pictures / name(number, url)).write_bytes(picture(number))
    return path


@pytest.mark.parametrize(
    ("pictures", "name"),
    [
        ("training", lambda line, url: f"{line}_{zlib.crc32(url.encode())}"),
        ("training", lambda line, url: f"{zlib.crc32(url.encode())}"),
        ("images", lambda line, url: f"{hashlib.md5(url.encode()).hexdigest()}.jpg"),
        ("Train_GCC-training", lambda line, url: f"{hashlib.sha256(url.encode()).hexdigest()}.webp"),
    ],
)
def test_official_file_beside_downloaded_pictures(tmp_path, pictures, name):
    path = official(tmp_path, name, pictures)
    pairs = list(read_tsv(path))
    assert pairs.pop(3) == Skipped("image is missing", URLS[3])
    numbers = [0, 1, 2, 4, 5]
    assert [pair.caption for pair in pairs] == [WORDS[number] for number in numbers]
    for number, pair in zip(numbers, pairs, strict=True):
        assert read_image_bytes(pair.image) == picture(number)
        assert load_image(read_image_bytes(pair.image)).getpixel((0, 0)) == (number * 20, 0, 0)


def test_numbered_pictures_are_not_guessed_at(tmp_path):
    path = official(tmp_path, lambda line, url: f"{line:09d}.jpg", "images")
    with pytest.raises(FileNotFoundError, match="::FOLDER"):
        list(read_tsv(path))


def test_lines_that_are_none_are_counted(tmp_path):
    path = official(tmp_path, lambda line, url: f"{zlib.crc32(url.encode())}", "images")
    lines = path.read_text(encoding="utf-8").split("\n")
    lines[1], lines[4] = "no tab in this line", f" \t{URLS[4]}"
    path.write_text("\n".join(lines), encoding="utf-8")
    reasons = [pair.reason for pair in read_tsv(path) if isinstance(pair, Skipped)]
    assert reasons == ["malformed line", "image is missing", "no caption"]


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("header", ["caption\timage", "image\tcaption\textra", '"caption"\t"image"'])
def test_fromage_file_with_names_relative_to_a_folder(tmp_path, given, header):
    folder = tmp_path / ("elsewhere" if given else "images")
    (folder / "sub").mkdir(parents=True)
    rows = [("a cat", "0.png"), ('"the ""open"" sign"', "sub/1.png"), ("gone", "2.png"), ("nothing", "")]
    order = [0, 1] if header.replace('"', "").startswith("caption") else [1, 0]
    body = ["\t".join([row[column] for column in order] + ["x"]) for row in rows]
    (tmp_path / "cc3m_train.tsv").write_text("\r\n".join([header, *body]) + "\r\n", encoding="utf-8")
    for number, name in ((0, "0.png"), (1, "sub/1.png")):
        (folder / name).write_bytes(picture(number))
    path = str(tmp_path / "cc3m_train.tsv") + (f"::{folder}" if given else "")
    layout, _, pairs = read_cc3m(path)
    assert layout == "TSV"
    assert list(pairs) == [
        CaptionedImage("a cat", str(folder / "0.png")),
        CaptionedImage('the "open" sign', str(folder / "sub/1.png")),
        Skipped("image is missing", str(folder / "2.png")),
        Skipped("malformed line", f"{tmp_path / 'cc3m_train.tsv'}:5"),
    ]


def test_fromage_default_folders(tmp_path):
    (tmp_path / "datasets").mkdir()
    (tmp_path / "data/cc3m/validation").mkdir(parents=True)
    (tmp_path / "datasets/cc3m_val.tsv").write_text("caption\timage\na cat\tcat.png\n")
    (tmp_path / "data/cc3m/validation/cat.png").write_bytes(picture(1))
    (pair,) = read_tsv(tmp_path / "datasets/cc3m_val.tsv")
    assert read_image_bytes(pair.image) == picture(1)


def write_archive(path, numbers, cut=None):
    """An archive as img2dataset writes it; sample 1 lacks its picture, sample 4 the file with its caption."""
    with tarfile.open(path, "w") as tar:

        def add(name, data):
            about = tarfile.TarInfo(name)
            about.size = len(data)
            tar.addfile(about, io.BytesIO(data))

        for number in numbers:
            key = f"{number:09d}"
            if number != 1:
                add(f"{key}.jpg", picture(number))
            add(f"{key}.json", json.dumps({"caption": WORDS[number], "url": URLS[number]}).encode())
            if number != 4:
                add(f"{key}.txt", WORDS[number].encode())
    if cut:
        path.write_bytes(path.read_bytes()[:cut])
    return path


def test_webdataset_archives(tmp_path):
    for shard, numbers in enumerate(([0, 1, 2], [3, 4])):
        write_archive(tmp_path / f"{shard:05d}.tar", numbers)
    names = {
        "a folder": str(tmp_path),
        "braces": str(tmp_path / "{00000..00001}.tar"),
        "a wildcard": str(tmp_path / "0*.tar"),
    }
    for path in names.values():
        layout, parts, pairs = read_cc3m(path)
        pairs = list(pairs)
        assert (layout, [os.path.basename(part) for part in parts]) == (
            "webdataset archives",
            ["00000.tar", "00001.tar"],
        )
        assert pairs.pop(1).reason == "image is missing"
        numbers = [0, 2, 3, 4]
        assert [pair.caption for pair in pairs] == [" ".join(WORDS[number].split()) for number in numbers]
        assert [read_image_bytes(pair.image) for pair in pairs] == [picture(number) for number in numbers]
    report = load_cc3m(names["braces"], "validation").report
    assert "4 usable pairs of 15,840 published" in report.describe()


@pytest.mark.parametrize("cut", [3 * 1024, 3 * 1024 + 100, 3 * 1024 + 600])
def test_damaged_and_missing_archives_are_reported_and_the_rest_is_read(tmp_path, cut):
    write_archive(tmp_path / "0.tar", [0, 2], cut)  # within the second sample: at, in and behind its first header
    write_archive(tmp_path / "2.tar", [3])
    (tmp_path / "3.tar").write_bytes(b"no archive" * 100)
    pairs = list(read_archives(find_archives(tmp_path / "{0..3}.tar")))
    skipped = [pair for pair in pairs if isinstance(pair, Skipped)]
    assert [pair.reason for pair in skipped] == ["archive is damaged", "archive is missing", "archive is damaged"]
    usable = [pair for pair in pairs if not isinstance(pair, Skipped)]
    assert usable[-1].caption.split() == WORDS[3].split()
    assert all(len(read_image_bytes(pair.image)) > 20 for pair in usable)


def test_braces():
    assert expand_braces("{08..11}.tar") == ["08.tar", "09.tar", "10.tar", "11.tar"]
    assert expand_braces("{a,b}/{0..1}") == ["a/0", "a/1", "b/0", "b/1"]
    assert expand_braces("plain") == ["plain"]


@pytest.mark.parametrize(
    ("path", "error", "words"),
    [
        ("nowhere.tsv", FileNotFoundError, "nowhere.tsv"),
        ("{0..3}.tar", FileNotFoundError, "no such tar"),
        ("nowhere", FileNotFoundError, "nowhere"),
        ("empty", FileNotFoundError, "no such tar"),
        ("text.txt", ValueError, "caption<TAB>url"),
        ("header.tsv", ValueError, "caption<TAB>image"),
        ("fine.tsv::nofolder", FileNotFoundError, "nofolder"),
        ("fine.tsv", FileNotFoundError, "::FOLDER"),
        ("onlyheader.tsv", FileNotFoundError, "onlyheader"),
    ],
)
def test_a_wrong_path_or_form_is_told(tmp_path, path, error, words):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("some words\nmore words\n")
    (tmp_path / "header.tsv").write_text("caption\tpicture\na\tb\n")
    (tmp_path / "fine.tsv").write_text("caption\timage\na\tb.png\n")
    (tmp_path / "onlyheader.tsv").write_text("caption\timage\n")
    with pytest.raises(error, match=words):
        load_cc3m(str(tmp_path / path))


def test_table_is_made_once_and_again_when_the_files_change(tmp_path, monkeypatch):
    path = official(tmp_path / "cc3m", lambda line, url: f"{zlib.crc32(url.encode())}", "images")
    table = load_cc3m(str(path), "train")
    assert list(table.pairs["caption"]) == [WORDS[number] for number in (0, 1, 2, 4, 5)]
    assert table.report.lost == {"image is missing": 1}
    assert table.skipped_list.read_text() == f"image is missing\t{URLS[3]}\n"
    assert "5 usable pairs of 3,318,333 published" in table.report.describe()
    with monkeypatch.context() as patched:
        patched.setattr("modeling_unimur.data.cc3m.ArrowWriter", None)
        assert load_cc3m(str(path), "train").report == table.report
    monkeypatch.chdir(path.parent)
    assert load_cc3m(path.name).pairs[0] == table.pairs[0]
    time.sleep(0.02)
    (path.parent / "images" / str(zlib.crc32(URLS[3].encode()))).write_bytes(picture(3))
    assert len(load_cc3m(str(path)).pairs) == 6


def test_a_name_that_is_no_utf_8_has_a_row(tmp_path):
    write_archive(tmp_path / os.fsdecode(b"1\xff.tar"), [0, 2])
    table = load_cc3m(str(tmp_path))
    assert [row["caption"].split() for row in table.pairs] == [WORDS[number].split() for number in (0, 2)]
    chosen = pickle.loads(pickle.dumps(table.pairs.select([1, 0, 0])["image"]))  # as workers get it
    assert [Path(name).name.partition("#")[0] for name in chosen] == ["1\ufffd.tar"] * 3
