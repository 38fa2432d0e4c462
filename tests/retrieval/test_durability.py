"""A folder holds one whole version, whoever writes, reads or is killed."""

import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

from modeling_unimur.retrieval import open_index
from modeling_unimur.retrieval.faiss_index import FaissIndex
from tests.hits import assert_same_answers
from tests.retrieval.vectors import random_units

VECTORS = random_units(20, 16)
# Version n holds n * 200 candidates, which all say n.
_WRITER = """
import sys
import numpy as np
from modeling_unimur.retrieval import open_index
index = open_index(sys.argv[1], 2048, "tiny@1")
rng = np.random.default_rng(0)
number = len(index) // 200
print("ready", flush=True)
while True:
    number += 1
    vectors = rng.normal(size=(200 * number, 2048)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    names = [str(n) for n in range(200 * number)]
    index.add("text", names, vectors, [{"version": number}] * len(names))
    index.save()
    print(number, flush=True)
"""


def filled(folder, count=20):
    index = open_index(folder, 16, "tiny@1")
    index.add("text", [str(n) for n in range(count)], VECTORS[:count])
    index.save()
    return index


def test_killed_writers_leave_a_whole_version(tmp_path):
    folder, rng, last = tmp_path / "index", random.Random(0), 0
    for _ in range(6):
        writer = subprocess.Popen([sys.executable, "-c", _WRITER, folder], stdout=subprocess.PIPE, text=True)
        assert writer.stdout.readline() == "ready\n"
        landed = int(writer.stdout.readline())
        time.sleep(rng.uniform(0, 0.15))
        writer.send_signal(signal.SIGKILL)
        written = [landed, *map(int, writer.communicate()[0].split())]
        with FaissIndex.load(folder, read_only=True) as index:
            number, rest = divmod(len(index), 200)
            # What was said to be saved is there; the one after it may be.
            assert rest == 0
            assert written[-1] <= number <= written[-1] + 1
            versions = {hit.payload["version"] for hit in index.search(index._parts["text"]._matrix()[:1], 5)[0]}
            assert versions == {number}
            assert number > last
            last = number


def test_failed_save_keeps_the_old_version(tmp_path, monkeypatch):
    with filled(tmp_path / "index") as index:
        monkeypatch.setattr("modeling_unimur.retrieval.faiss_part.FaissPart.write", lambda *_: 1 / 0)
        index.remove("text", ["0"])
        with pytest.raises(ZeroDivisionError):
            index.save()
    assert len(FaissIndex.load(tmp_path / "index", read_only=True)) == 20
    assert not list((tmp_path / "index").glob(".aside-*"))


def test_two_writers_are_told_of_each_other(tmp_path):
    with filled(tmp_path / "index"):
        with pytest.raises(BlockingIOError, match=r"is being written by process \d+ on .* read_only=True"):
            open_index(tmp_path / "index")
        other = FaissIndex(16, "tiny@1")
        with pytest.raises(BlockingIOError, match="is being written by"):
            other.save(tmp_path / "index")
        assert len(open_index(tmp_path / "index", read_only=True)) == 20
    with pytest.raises(ValueError, match="holds another index"):
        other.save(tmp_path / "index")
    with open_index(tmp_path / "index") as index:
        assert len(index) == 20


def test_a_reader_goes_on(tmp_path):
    with filled(tmp_path / "index") as writer:
        reader = open_index(tmp_path / "index", read_only=True)
        assert not reader.refresh()
        before = reader.search(VECTORS, 3)
        writer.remove("text", ["3"])
        writer.save()
        writer.save()
        assert_same_answers(reader.search(VECTORS, 3), before)
        assert reader.refresh()
        assert len(reader) == 19
        assert_same_answers(reader.search(VECTORS, 3), writer.search(VECTORS, 3))
        assert sorted(path.name for path in (tmp_path / "index").iterdir()) == ["CURRENT", "v000003", "writer.lock"]


def test_a_version_that_vanishes_under_a_reader(tmp_path, monkeypatch):
    """The writer lands the next version between a reader's look at CURRENT and its reading."""
    with filled(tmp_path / "index") as writer:
        read = FaissIndex._read
        calls = []

        def late(folder, about):
            if not calls:
                calls.append(folder.name)
                writer.save()
            return read(folder, about)

        monkeypatch.setattr(FaissIndex, "_read", late)
        assert len(open_index(tmp_path / "index", read_only=True)) == 20
        assert calls == ["v000001"]


@pytest.mark.parametrize("name", ["text.faiss", "text.jsonl", "image.faiss", "index.json"])
def test_a_damaged_file_is_named(tmp_path, name):
    filled(tmp_path / "index").close()
    path = tmp_path / "index" / "v000001" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"damaged \({name}\); build it again"):
        open_index(tmp_path / "index")
    path.unlink()
    with pytest.raises(ValueError, match=f"damaged: .*{name} is gone"):
        open_index(tmp_path / "index")


def test_other_content_is_left_alone(tmp_path):
    (tmp_path / "v000001").mkdir()
    with pytest.raises(ValueError, match=r"something else \(v000001\)"):
        open_index(tmp_path, 16, "tiny@1")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="is a file"):
        open_index(tmp_path / "file", 16, "tiny@1")
    with pytest.raises(FileNotFoundError, match="no index"):
        FaissIndex.load(tmp_path / "nothing")
    with pytest.raises(ValueError, match="Name a folder"):
        FaissIndex(16, "tiny@1").save()


def test_moved_folders_and_copies(tmp_path):
    filled(tmp_path / "index").close()
    shutil.copytree(tmp_path / "index", tmp_path / "copy")
    (tmp_path / "index").rename(tmp_path / "moved")
    for name in ("copy", "moved"):
        with open_index(tmp_path / name) as index:
            assert len(index) == 20
