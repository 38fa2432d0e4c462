"""A folder holds one whole version, whoever writes, reads or is killed."""

import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
import time

import faiss
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from modeling_unimur.index import open_index
from modeling_unimur.index.faiss import FaissIndex
from modeling_unimur.index.versions import IndexFolder
from tests.hits import assert_same_answers
from tests.index.vectors import random_units

VECTORS = random_units(20, 16)
# Version n holds n * 200 candidates, which all say n.
_WRITER = """
import sys
import numpy as np
from modeling_unimur.index import open_index
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
            versions = {hit.payload["version"] for hit in index.search(index.parts["text"].matrix()[:1], 5)[0]}
            assert versions == {number}
            assert number > last
            last = number


def test_failed_save_keeps_the_old_version(tmp_path, monkeypatch):
    with filled(tmp_path / "index") as index:
        monkeypatch.setattr("modeling_unimur.index.faiss.FaissPart.write", lambda *_: 1 / 0)
        index.remove("text", ["0"])
        with pytest.raises(ZeroDivisionError):
            index.save()
    assert len(FaissIndex.load(tmp_path / "index", read_only=True)) == 20
    assert not list((tmp_path / "index").glob(".aside-*"))


def test_two_writers_are_told_of_each_other(tmp_path):
    with filled(tmp_path / "index"):
        with pytest.raises(BlockingIOError, match=r"another process.*read_only"):
            open_index(tmp_path / "index")
        other = FaissIndex(16, "tiny@1")
        with pytest.raises(BlockingIOError, match="being written"):
            other.save(tmp_path / "index")
        assert len(open_index(tmp_path / "index", read_only=True)) == 20
    with pytest.raises(ValueError, match="another index"):
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
        assert sorted(path.name for path in (tmp_path / "index").iterdir()) == [
            "CURRENT",
            "v000003",
            "writer.lock",
        ]


def test_a_version_that_vanishes_under_a_reader(tmp_path, monkeypatch):
    """The writer lands the next version between a reader's look at CURRENT and its reading."""
    with filled(tmp_path / "index") as writer:
        read = FaissIndex.read_files
        calls = []

        def late(folder, about):
            if not calls:
                calls.append(folder.name)
                writer.save()
            return read(folder, about)

        monkeypatch.setattr(FaissIndex, "read_files", late)
        assert len(open_index(tmp_path / "index", read_only=True)) == 20
        assert calls == ["v000001"]


@pytest.mark.parametrize("name", ["text.faiss", "text.jsonl", "image.faiss", "index.json"])
def test_a_damaged_file_is_named(tmp_path, name):
    filled(tmp_path / "index").close()
    path = tmp_path / "index" / "v000001" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"damaged \({name}\)"):
        open_index(tmp_path / "index")
    path.unlink()
    with pytest.raises(ValueError, match=f"{name} is gone"):
        open_index(tmp_path / "index")


def test_other_content_is_left_alone(tmp_path):
    (tmp_path / "v000001").mkdir()
    with pytest.raises(ValueError, match="v000001"):
        open_index(tmp_path, 16, "tiny@1")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="is a file"):
        open_index(tmp_path / "file", 16, "tiny@1")
    with pytest.raises(FileNotFoundError, match="no index"):
        FaissIndex.load(tmp_path / "nothing")
    with pytest.raises(ValueError, match="folder"):
        FaissIndex(16, "tiny@1").save()


def test_moved_folders_and_copies(tmp_path):
    filled(tmp_path / "index").close()
    shutil.copytree(tmp_path / "index", tmp_path / "copy")
    (tmp_path / "index").rename(tmp_path / "moved")
    for name in ("copy", "moved"):
        with open_index(tmp_path / name) as index:
            assert len(index) == 20


# A quota that is reached at every place of the files; FAISS itself does not notice when its last bytes are lost.
_FULL_DISK = """
import json, resource, sys
from modeling_unimur.index import open_index
from tests.index.vectors import random_units
folder, limit = sys.argv[1], int(sys.argv[2])
with open_index(folder) as index:
    index.add("text", [f"new{n}" for n in range(40)], random_units(40, 16, seed=5), [{"n": "x" * 50}] * 40)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        index.save()
    except OSError as error:
        print("refused", type(error).__name__)
    else:
        print("saved")
"""


@pytest.mark.parametrize("kind", ["memory", "memory,int8", "Flat", "HNSW8"])
def test_a_disk_that_is_full_keeps_the_old_version(tmp_path, kind):
    index = open_index(tmp_path / "index", 16, "tiny@1", kind)
    index.add("text", [str(n) for n in range(20)], VECTORS)
    index.save()
    index.close()
    shutil.copytree(tmp_path / "index", tmp_path / "whole")
    with open_index(tmp_path / "whole") as grown:
        grown.add("text", [f"new{n}" for n in range(40)], random_units(40, 16, seed=5), [{"n": "x" * 50}] * 40)
        grown.save()
    sizes = {file.stat().st_size for file in (tmp_path / "whole").glob("v*/*")}
    largest, outcomes = max(sizes), set()
    for limit in sorted({*(size - 1 for size in sizes if size > 400), 500, largest // 2, largest - 40, largest}):
        arguments = [sys.executable, "-c", _FULL_DISK, tmp_path / "index", str(limit)]
        done = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout.split()
        outcomes.add(done[0])
        with open_index(tmp_path / "index", read_only=True) as found:
            assert len(found) == (20 if done[0] == "refused" else 60), limit
            assert done[0] == ("refused" if limit < largest else "saved"), limit
        assert not list((tmp_path / "index").glob(".aside-*"))
    assert outcomes == {"refused", "saved"}


@pytest.mark.parametrize("name", ["v000002", "v123456", "v999999999", ".aside-mine", ".current-backup", "notes", "v7"])
def test_a_folder_of_the_user_s_is_left_alone(tmp_path, name):
    with filled(tmp_path / "index") as index:
        mine = tmp_path / "index" / name / "thesis.txt"
        mine.parent.mkdir()
        mine.write_text("years of work", encoding="utf-8")
        for _ in range(3):
            index.save()
        assert mine.read_text(encoding="utf-8") == "years of work"
    with open_index(tmp_path / "index") as index:
        assert len(index) == 20
    versions = {path.name for path in (tmp_path / "index").glob("v*")} - {name}
    assert versions == {(tmp_path / "index" / "CURRENT").read_text(encoding="ascii").split()[0]}


def test_a_copy_of_a_version_is_left_alone(tmp_path):
    with filled(tmp_path / "index") as index:
        shutil.copytree(tmp_path / "index" / "v000001", tmp_path / "index" / "v000009")
        index.save()
        index.save()
        assert (tmp_path / "index" / "v000009" / "index.json").is_file()


def test_what_a_killed_writer_left_is_removed(tmp_path, monkeypatch):
    index = filled(tmp_path / "index")
    folder = tmp_path / "index"
    with monkeypatch.context() as patch:  # killed: nothing is cleaned up
        patch.setattr("modeling_unimur.index.versions.shutil.rmtree", lambda *_, **__: None)
        patch.setattr("modeling_unimur.index.versions.IndexFolder._note", _note_once())
        patch.setattr("modeling_unimur.index.versions.os.replace", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            index.save()
    assert len(list(folder.glob(".aside-*"))) == 1
    index.save()
    assert sorted(path.name for path in folder.iterdir()) == ["CURRENT", "v000002", "writer.lock"]


def _note_once():
    note, calls = IndexFolder._note, []

    def once(self, names):
        calls.append(names)
        if len(calls) == 1:
            note(self, names)

    return once


def resign(folder, change):
    """Changes a version as somebody would who may write to it, and makes all checksums fit again."""
    version = folder / (folder / "CURRENT").read_text(encoding="ascii").split()[0]
    change(version)
    about = json.loads((version / "index.json").read_text(encoding="utf-8"))
    about["sha256"] = {
        name: hashlib.sha256((version / name).read_bytes()).hexdigest() if (version / name).is_file() else "0" * 64
        for name in map(str, about["sha256"])
    }
    (version / "index.json").write_text(json.dumps(about), encoding="utf-8")
    digest = hashlib.sha256((version / "index.json").read_bytes()).hexdigest()
    (folder / "CURRENT").write_text(f"{version.name} {digest}\n", encoding="ascii")


def change_tensors(function):
    def change(version):
        path = version / "embeddings.safetensors"
        save_file({kind: function(rows) for kind, rows in load_file(path).items()}, path)

    return change


def change_flat(function):
    def change(version):
        path = str(version / "text.faiss")
        index = faiss.read_index(path)
        vectors = function(index.reconstruct_n(0, index.ntotal))
        other = faiss.IndexFlat(vectors.shape[1], faiss.METRIC_INNER_PRODUCT)
        other.add(np.ascontiguousarray(vectors, dtype=np.float32))
        faiss.write_index(other, path)

    return change


def change_about(**values):
    def change(version):
        path = version / "index.json"
        path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **values}), encoding="utf-8")

    return change


def change_lines(name, old, new):
    def change(version):
        path = version / name
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new), encoding="utf-8")

    return change


def first_is(value):
    def change(rows):
        rows = rows.copy()
        rows[0, 0] = value
        return rows

    return change


COMMON = {
    "wider": change_about(width=17),
    "no width": change_about(width="sixteen"),
    "counts": change_about(counts={"text": 20, "image": 3}),
    "counts of another": change_about(counts={"sound": 20}),
    "counts as a list": change_about(counts=[20]),
    "a file above": change_about(sha256={"../../../passwd": "0"}),
    "a file elsewhere": change_about(sha256={"/etc/passwd": "0"}),
    "a file of another system": change_about(sha256={"..\\x": "0"}),
    "a file that is not there": change_about(sha256={"1": ""}),
    "no model": change_about(model=["x"]),
}
CHANGES = {
    "memory": {
        "NaN": change_tensors(first_is(np.nan)),
        "infinity": change_tensors(first_is(np.inf)),
        "scaled": change_tensors(lambda rows: 2 * rows),
        "int8": change_tensors(lambda rows: (rows * 127).astype(np.int8)),
        "float64": change_tensors(lambda rows: rows.astype(np.float64)),
        "narrower": change_tensors(lambda rows: rows[:, :8].copy()),
        "fewer": change_tensors(lambda rows: rows[:-1].copy()),
        "no tensors": lambda version: (version / "embeddings.safetensors").write_bytes(b"{}"),
        "twice": change_lines("items.jsonl", '"id": "3"', '"id": "4"'),
        "no id": change_lines("items.jsonl", '"id": "3"', '"id": 3'),
        "no JSON": change_lines("items.jsonl", '"id": "3"', '"id": '),
        "no payload": change_lines("items.jsonl", '"id": "3", "payload": {}', '"id": "3", "payload": 7'),
        "another kind": change_lines("items.jsonl", '"kind": "text", "id": "3"', '"kind": "sound", "id": "3"'),
        **COMMON,
    },
    "Flat": {
        "NaN": change_flat(first_is(np.nan)),
        "scaled": change_flat(lambda rows: 2 * rows),
        "shrunk": change_flat(lambda rows: 0.5 * rows),
        "narrower": change_flat(lambda rows: rows[:, :8]),
        "fewer": change_flat(lambda rows: rows[:-1]),
        "no FAISS": lambda version: (version / "text.faiss").write_bytes(b"IxFI"),
        "empty": lambda version: (version / "text.faiss").write_bytes(b""),
        "by distance": lambda version: faiss.write_index(faiss.IndexFlatL2(16), str(version / "image.faiss")),
        "another class": lambda version: faiss.write_index(
            faiss.index_factory(16, "HNSW8", faiss.METRIC_INNER_PRODUCT), str(version / "image.faiss")
        ),
        "twice": change_lines("text.jsonl", '["3"', '["4"'),
        "no id": change_lines("text.jsonl", '["3"', "[3"),
        "no row": change_lines("text.jsonl", '["3", {}]', "17"),
        "another factory": change_about(factory="HNSW8"),
        "no factory": change_about(factory=None),
        **COMMON,
    },
}  # fmt: skip


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in CHANGES for name in CHANGES[kind]])
def test_what_no_add_can_have_stored_is_refused(tmp_path, kind, name):
    with open_index(tmp_path / "index", 16, "tiny@1", kind) as index:
        index.add("text", [str(n) for n in range(20)], VECTORS)
        index.save()
    resign(tmp_path / "index", lambda version: None)
    with open_index(tmp_path / "index", read_only=True) as index:
        assert len(index) == 20
    resign(tmp_path / "index", CHANGES[kind][name])
    with pytest.raises(ValueError, match=r"damaged|FAISS|vectors of|made by"):
        open_index(tmp_path / "index", 16, "tiny@1", read_only=True)


@pytest.mark.parametrize("kind", ["HNSW8", "IVF2,Flat", "IVF2,SQ8", "PCA8,IVF2,Flat", "IVF2,SQ8,RFlat"])
def test_vectors_of_approximate_kinds_are_looked_at(tmp_path, kind):
    with open_index(tmp_path / "index", 16, "tiny@1", kind) as index:
        index.add("text", [str(n) for n in range(200)], random_units(200, 16))
        index.remove("text", [str(n) for n in range(0, 200, 3)])
        index.save()
    with open_index(tmp_path / "index", read_only=True) as index:
        assert len(index) == 133

    def scale(version):
        path = str(version / "text.faiss")
        index = faiss.index_factory(16, kind, faiss.METRIC_INNER_PRODUCT)
        vectors = 3 * random_units(133, 16)
        index.train(vectors)
        if kind.startswith("IVF") and "RFlat" not in kind:
            index.add_with_ids(vectors, np.flatnonzero(np.arange(200) % 3))
        else:
            index.add(vectors)
        faiss.write_index(index, path)

    resign(tmp_path / "index", scale)
    with pytest.raises(ValueError, match="damaged"):
        open_index(tmp_path / "index", read_only=True)


@pytest.mark.parametrize(("kind", "name"), [("memory", "items.jsonl"), ("Flat", "text.jsonl")])
def test_payloads_of_an_earlier_version_are_read(tmp_path, kind, name):
    """It took integers of any size and any depth."""
    with open_index(tmp_path / "index", 16, "tiny@1", kind) as index:
        index.add("text", ["a"], VECTORS[:1], [{"n": 123456789}])
        index.save()
    large, deep = 2**70, {"x": [[1]] * 2}
    resign(tmp_path / "index", change_lines(name, '"n": 123456789', f'"n": {large}, "deep": {json.dumps(deep)}'))
    with open_index(tmp_path / "index") as index:
        assert index.search(VECTORS[:1], 1, where={"n": large})[0][0].payload == {"n": large, "deep": deep}
        index.save()
