"""What is Milvus' own: a bound on hits, addresses, one process a file."""

import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from modeling_unimur.index import open_index
from tests.index.vectors import jittered

pytest.importorskip("milvus_lite")
CLOUD = jittered(600)
IDS = [str(n) for n in range(600)]


def test_a_search_has_a_bound(tmp_path):
    with open_index(tmp_path / "items.db", 32, "tiny@1") as index, pytest.raises(ValueError, match="16384"):
        index.search(CLOUD[:1], 20_000)


def other_process(path):
    code = f"from modeling_unimur.index import open_index; print(len(open_index({str(path)!r})))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_a_file_has_one_process(tmp_path):
    path = tmp_path / "items.db"
    with open_index(path, 32, "tiny@1") as index:
        index.add("image", IDS[:5], CLOUD[:5])
        with open_index(path, read_only=True) as reader:
            assert len(reader) == 5
        # The first still has it.
        assert "BlockingIOError: Another process has" in other_process(path).stderr
    index.close()  # again
    # Nobody of this process has it: another may, and this one again.
    done = other_process(path)
    assert (done.returncode, done.stdout) == (0, "5\n"), done.stderr
    with open_index(path) as index:
        assert len(index) == 5


@pytest.mark.parametrize("read_only", [False, True])
def test_a_file_opens_no_port(tmp_path, monkeypatch, read_only):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    open_index(tmp_path / "items.db", 32, "tiny@1").close()

    def listening():
        """Inodes of this process' sockets that wait for connections by TCP."""
        waiting = set()
        for table in ("tcp", "tcp6"):
            lines = Path(f"/proc/self/net/{table}").read_text().splitlines()[1:]
            waiting |= {fields[9] for fields in map(str.split, lines) if fields[3] == "0A"}
        links = (os.readlink(link) for link in Path("/proc/self/fd").iterdir() if os.path.lexists(link))
        return waiting & {link.removeprefix("socket:[").removesuffix("]") for link in links}

    before = listening()
    with open_index(tmp_path / "items.db", read_only=read_only) as index:
        assert len(index) == 0
        assert listening() == before
        (folder,) = tmp_path.glob("milvus-*")
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not list(tmp_path.glob("milvus-*"))


def test_a_long_temporary_folder(tmp_path, monkeypatch):
    deep = tmp_path / ("x" * 120)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with open_index(tmp_path / "items.db", 32, "tiny@1") as index:
        assert index.add("image", IDS[:5], CLOUD[:5]).added == 5


@pytest.mark.parametrize("what", ["text", "folder", "no folder"])
def test_what_is_no_milvus_file(tmp_path, monkeypatch, what):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    path = tmp_path / "items.db"
    if what == "text":
        path.write_text("no database")
    if what == "folder":
        path.mkdir()
        (path / "mine").write_text("x")
    if what == "no folder":
        path = tmp_path / "nowhere" / "items.db"
    with pytest.raises((ValueError, FileNotFoundError), match=r"items\.db"):
        open_index(path)
    assert not list(tmp_path.glob("milvus-*"))


def test_no_server():
    with pytest.raises(ConnectionError, match=r"127\.0\.0\.1:1"):
        open_index("127.0.0.1:1", 32, "tiny@1", timeout=1.0)
