"""Every kind of bad item in every bulk road: the good ones are in, and each reason is counted."""

import io
import json
import os
import socket
import tarfile
import threading
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_unimur.cli.main import main
from modeling_unimur.encoding.build import build_index
from modeling_unimur.encoding.encoder import Encoder
from tests.encoding.corpora import content, image_folder, options, picture
from tests.encoding.test_sources import png, tar_file

EXIF_BROKEN = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 40


def encoded(format, **settings) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(len(format)).integers(0, 255, (24, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, format, **settings)
    return file.getvalue()


def good_pixels() -> dict[str, bytes]:
    """Images whose metadata is broken, which never decides over pixels."""
    return {
        "exif.jpg": encoded("JPEG", exif=EXIF_BROKEN),
        "exif.png": encoded("PNG", exif=EXIF_BROKEN),
        "exif.webp": encoded("WEBP", exif=EXIF_BROKEN),
        "profile.jpg": encoded("JPEG", icc_profile=b"no profile"),
    }


def bad_bytes() -> dict[str, bytes]:
    whole = encoded("JPEG", quality=95)
    return {
        "cut.png": png(3)[:100],
        "cut.jpg": whole[: len(whole) // 2],
        "empty.jpg": b"",
        "zeros.jpg": bytes(5000),
        "words.png": b"no picture",
        "header.webp": encoded("WEBP")[:20],
        "light.hdr": b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 1 +X 1\n\1\1\1\1",
        "film.exr": b"v/1\x01\2\0\0\0" + bytes(50),
        "phone.heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(50),
        "drawing.svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "page.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "bomb.png": png_of_size(60_000, 60_000),
    }


def png_of_size(width, height) -> bytes:
    data = bytearray(png(1))
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    return bytes(data)


def fill_with_bad_files(folder) -> set[str]:
    """Writes good and bad files; returns the names of the bad ones."""
    for name, data in {**good_pixels(), **bad_bytes()}.items():
        (folder / name).write_bytes(data)
    os.mkfifo(folder / "pipe.jpg")
    os.mkfifo(folder / "pipe.tar")
    os.mkfifo(folder / "pipe.parquet")
    (folder / "device.png").symlink_to("/dev/zero")
    (folder / "nowhere.png").symlink_to(folder / "gone")
    (folder / "circle.png").symlink_to(folder / "circle.png")
    with open(folder / "sparse.jpg", "wb") as file:
        file.truncate(30 * 2**30)
    with open(folder / "sparse.tar", "wb") as file:
        file.truncate(30 * 2**30)
    (folder / "folder.jpg").mkdir()
    (folder / "raw.nef").write_bytes(bytes(100))
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(folder)  # a socket's path is short
        server.bind("socket.png")
        os.chdir(here)
    # A pipe as the caption beside a good image.
    picture(folder / "captioned.png", 99)
    os.mkfifo(folder / "captioned.txt")
    (folder / "sub").mkdir()
    (folder / "sub" / "deep.tar").write_bytes(b"")
    others = (
        "pipe.jpg pipe.tar pipe.parquet device.png nowhere.png circle.png sparse.jpg raw.nef socket.png sub/deep.tar"
    )
    return {*bad_bytes(), *others.split()}


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_folder_of_every_kind_of_bad_file(release_folder, tmp_path, capsys, workers):
    folder, index = image_folder(tmp_path / "corpus", 4), str(tmp_path / "index")
    bad = fill_with_bad_files(folder)
    arguments = ["index", "build", str(folder), "--model", str(release_folder), "--index", index, "--workers", workers]
    done = threading.Event()
    threading.Thread(target=lambda: done.wait(120) or os.abort(), daemon=True).start()  # rather than to hang
    assert main(arguments) == 0
    done.set()
    shown = capsys.readouterr().out
    good = {"a/0.png", "a/2.png", "b/1.png", "b/3.png", "captioned.png", *good_pixels()}
    assert {name for _, name in content(index)} == good
    with open(tmp_path / "index.encoding" / "skipped.jsonl", encoding="utf-8") as lines:
        skipped = [json.loads(line) for line in lines]
    assert {os.path.relpath(os.path.join(folder, one["item"]), folder) for one in skipped} == bad
    lines = [line.split(" x ") for line in shown.splitlines() if " x " in line]
    assert sum(int(count) for count, _ in lines) == len(skipped)
    reasons = [reason for _, reason in lines]
    assert len(set(reasons)) == len(reasons) == len({one["reason"].partition(": ")[0] for one in skipped})
    for word in (
        "not an image",
        "HEIC",
        "not a regular file",
        "too large",
        "raw",
        "No such file",
    ):
        assert any(word in reason for reason in reasons), word
    assert main([*arguments[:1], "update", *arguments[2:]]) == 0
    assert "0 added, 0 replaced, 0 removed, " in capsys.readouterr().out


def test_lines(encoder, tmp_path):
    picture(tmp_path / "good.png", 1)
    (tmp_path / "bad.png").write_bytes(b"x")
    (tmp_path / "sub.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    records = [
        ("good text", '{"text": "good"}'),
        ("good image", '{"image": "good.png", "text": "a\\u2028b\\u0085c\\u0000d"}'),
        ("good tab", '{"text": "a\ttab"}'),
        ("deep", '{"text": "x", "deep": ' + "[" * 100_000 + "]" * 100_000 + "}"),
        ("deep object", '{"text": "x", "deep": ' + '{"a":' * 500 + "1" + "}" * 501),
        ("surrogate", '{"text": "half \\ud800"}'),
        ("long", json.dumps({"text": "ü" * 40_000})),
        ("empty", '{"text": " "}'),
        ("empty id", '{"id": "", "text": "x"}'),
        ("long id", json.dumps({"id": "x" * 70_000, "text": "x"})),
        ("id of half a pair", '{"id": "\\ud800", "text": "x"}'),
        ("list as id", '{"id": [1], "text": "x"}'),
        ("number", "17"),
        ("no JSON", "{broken"),
        ("digits", '{"text": "x", "n": ' + "9" * 5000 + "}"),
        ("null", '{"text": null, "image": null}'),
        ("bad image", '{"image": "bad.png"}'),
        ("folder", '{"image": "sub.png"}'),
        ("pipe", '{"image": "pipe.png"}'),
        ("device", '{"image": "/dev/zero"}'),
        ("nul in a path", '{"image": "a\\u0000.png"}'),
        ("long path", json.dumps({"image": "x" * 5000})),
        ("no path", '{"image": 7}'),
        ("url", '{"image": "http://127.0.0.1:1/x.png"}'),
        ("last", '{"text": "last"}'),
    ]
    path = tmp_path / "items.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + "\n".join(line for _, line in records).encode() + b'\n{"text": "\xff"}\n')
    report = build_index(path, encoder, tmp_path / "index", options())
    names = [name for name, _ in records]
    good = [f"items.jsonl:{names.index(name) + 1}" for name in ("good text", "good image", "good tab", "last")]
    assert sorted(name for _, name in content(tmp_path / "index")) == sorted(good)
    assert report.skipped == sum(report.reasons.values()) == len(records) + 1 - len(good)
    assert all(reason and "\n" not in reason for reason in report.reasons)


@pytest.mark.parametrize(
    "name", ["pipe.jsonl", "device.jsonl", "sparse.jsonl", "pipe.txt", "utf16.jsonl", "folder.jsonl"]
)
def test_files_of_lines_that_never_end(encoder, tmp_path, name):
    path = tmp_path / "lines" / name
    path.parent.mkdir()
    if name.startswith("pipe"):
        os.mkfifo(path)
    if name.startswith("device"):
        path.symlink_to("/dev/zero")
    if name.startswith("sparse"):
        with open(path, "wb") as file:
            file.truncate(2**28)
    if name.startswith("utf16"):
        path.write_text('{"text": "x"}\n', encoding="utf-16")
    if name.startswith("folder"):
        path.mkdir()
    (path.parent / f"good{path.suffix}").write_text('{"text": "good"}\n', encoding="utf-8")
    report = build_index(f"{path.parent}/*{path.suffix}", encoder, tmp_path / "index", options())
    assert (report.items, report.skipped) == (1, 1)


def test_archives(encoder, tmp_path):
    members = {"good.png": png(1), "good.txt": b"a caption", "words.txt": "half é".encode("latin-1")}
    members |= {
        f"x{number}.{name.rpartition('.')[2]}": data for number, (name, data) in enumerate(bad_bytes().items())
    }
    members |= {"deep.json": b"[" * 100_000, "long.txt": b"x" * 70_000, "empty.txt": b" "}
    tar_file(tmp_path / "a.tar", members)
    (tmp_path / "b.tar").write_bytes(b"no archive" * 100)
    with tarfile.open(tmp_path / "c.tar", "w") as tar:  # claims more than there is
        about = tarfile.TarInfo("huge.png")
        about.size = 40 * 2**30
        tar.fileobj.write(about.tobuf())
    (tmp_path / "d.tar").mkdir()
    os.mkfifo(tmp_path / "e.tar")
    report = build_index(f"{tmp_path}/*.tar", encoder, tmp_path / "index", options())
    assert {name for _, name in content(tmp_path / "index")} == {"a.tar/good", "a.tar/words"}
    assert report.skipped == sum(report.reasons.values()) >= len(bad_bytes()) - 4 + 3 + 3


def test_tables(encoder, tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    bad = bad_bytes()
    picture(tmp_path / "beside.png", 7)
    cells = [{"bytes": png(1), "path": "x.png"}, *({"bytes": data, "path": None} for data in bad.values())]
    texts = ["a caption", *bad]
    cells += [
        None,
        {"bytes": None, "path": "beside.png"},
        {"bytes": None, "path": "gone.png"},
        {"bytes": None, "path": None},
    ]
    texts += ["only a text", "beside", "gone", None]
    pq.write_table(pa.table({"text": texts, "image": cells}), tmp_path / "a.parquet", row_group_size=3)
    pq.write_table(pa.table({"image": [png(2), None, b"x"], "text": [None, "text", None]}), tmp_path / "b.parquet")
    pq.write_table(pa.table({"words": ["x"]}), tmp_path / "c.parquet")
    (tmp_path / "d.parquet").write_bytes(b"PAR1 no table")
    (tmp_path / "e.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-50])
    report = build_index(f"{tmp_path}/*.parquet", encoder, tmp_path / "index", options())
    found = content(tmp_path / "index")
    last = len(texts)
    assert set(found) == {
        ("image", "a.parquet:0"), ("text", f"a.parquet:{last - 4}"), ("image", f"a.parquet:{last - 3}"),
        ("image", "b.parquet:0"), ("text", "b.parquet:1"),
    }  # fmt: skip
    assert found["text", f"a.parquet:{last - 4}"][0] == {"text": "only a text"}
    assert found["image", f"a.parquet:{last - 3}"][0] == {"image": str(tmp_path / "beside.png"), "caption": "beside"}
    assert report.skipped == len(bad) + 2 + 1 + 3
    # The file that a cell names is part of the content.
    picture(tmp_path / "beside.png", 8)
    again = build_index(f"{tmp_path}/*.parquet", encoder, tmp_path / "index", options())
    assert (again.encoded, again.replaced) == (1, 1)


class Picky(Encoder):
    """A processor that refuses some texts, and a model that gives some no number."""

    def __init__(self, model, processor):
        super().__init__(model, processor)
        assert self.name  # by the whole processor
        whole = processor.process_texts

        def process_texts(texts, **options):
            if any("refuse" in text for text in texts):
                raise TypeError("TextInputSequence must be str")
            self.current = texts
            return whole(texts, **options)

        self.processor = type("Processor", (), {"process_texts": staticmethod(process_texts)})()

    def vectors(self, kind, inputs):
        found = super().vectors(kind, inputs).clone()
        found[torch.tensor(["nan" in text for text in self.current])] = torch.nan
        return found


def test_what_the_processor_refuses_and_the_model_cannot_number(pair, tmp_path):
    texts = ["one", "refuse this", "two", "three nan", "refuse this", "three nan", "four"]
    path = tmp_path / "words.txt"
    path.write_text("\n".join(texts))
    report = build_index(path, Picky(*pair), tmp_path / "index", options(batch_size=7, chunk_size=7))
    assert {name for _, name in content(tmp_path / "index")} == {f"words.txt:{number}" for number in (1, 3, 7)}
    assert (report.items, report.skipped, report.encoded) == (3, 4, 3)
    assert report.reasons == {"TypeError": 2, "the model gives it no vector of finite numbers": 2}
