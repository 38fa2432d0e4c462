"""What is Milvus' own: addresses, kinds of index, one process a file."""

import subprocess
import sys

import pytest

from modeling_unimur.retrieval import open_index
from tests.retrieval.vectors import jittered

pytest.importorskip("milvus_lite")
CLOUD = jittered(600)
IDS = [str(n) for n in range(600)]


@pytest.mark.parametrize("kind", ["HNSW16", "IVF8,Flat", "IVF8,SQ8"])
def test_approximate_kinds(kind, tmp_path):
    with open_index(tmp_path / "items.db", 32, "tiny@1", kind) as index:
        index.add("image", IDS, CLOUD)
        index.save()
        hits = index.search(CLOUD[:50], 1, "image")
        assert sum(hit[0].id == item for hit, item in zip(hits, IDS, strict=False)) >= 48
    with pytest.raises(ValueError, match="Milvus makes 'Flat'"):
        open_index(tmp_path / "other.db", 32, "tiny@1", "LSH")


def test_two_collections_in_one_file(tmp_path):
    with open_index(tmp_path / "items.db", 32, "tiny@1", collection="a") as index:
        index.add("image", IDS[:5], CLOUD[:5])
        with pytest.raises(ValueError, match="at most 16384"):
            index.search(CLOUD[:1], 20_000)
    with open_index(tmp_path / "items.db", 32, "tiny@2", collection="b") as index:
        assert len(index) == 0
        index.drop()
    with pytest.raises(FileNotFoundError, match="holds no index 'b'"):
        open_index(tmp_path / "items.db", collection="b")


def test_a_file_has_one_process(tmp_path):
    code = f"from modeling_unimur.retrieval import open_index; open_index({str(tmp_path / 'items.db')!r})"
    with open_index(tmp_path / "items.db", 32, "tiny@1"):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "BlockingIOError: Another process has" in done.stderr


def test_no_server():
    with pytest.raises(ConnectionError, match=r"No Milvus answers at 127\.0\.0\.1:1"):
        open_index("127.0.0.1:1", 32, "tiny@1", timeout=1.0)
