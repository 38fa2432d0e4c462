"""What is LanceDB's own: kinds of index, other processes, object stores' memory."""

from __future__ import annotations

import pytest

from modeling_unimur.index import open_index
from modeling_unimur.memory_index import RetrievalIndex, conditions
from tests.hits import assert_same_answers
from tests.index.test_qdrant_index import CLOUD, IDS, fill

pytest.importorskip("lancedb")
pytestmark = pytest.mark.slow


def test_ranks_as_the_index_in_memory():
    plain = fill(RetrievalIndex(32, "tiny@1"))
    with open_index("lancedb+memory://", 32, "tiny@1") as index:
        fill(index)
        for where in (None, {'a "quoted" key': 1}, {"name": {"gte": "n5"}, "n": {"lt": 400}}):
            asked = {"top_k": 20, "where": where}
            assert_same_answers(index.search(CLOUD[:20], **asked), plain.search(CLOUD[:20], **asked))


@pytest.mark.parametrize("kind", ["HNSW16", "IVF8,Flat", "IVF8,SQ8", "IVF8,PQ16"])
def test_approximate_kinds(kind, tmp_path):
    place = f"lancedb+{tmp_path}/items"
    with open_index(place, 32, "tiny@1", kind) as index:
        index.add("image", IDS[:20], CLOUD[:20])
        index.save()  # too few rows for cells
        index.add("image", IDS[:500], CLOUD[:500])
        index.save()
        index.add("image", IDS[500:], CLOUD[500:])  # found before they are indexed
        for first in (0, 550):
            hits = index.search(CLOUD[first : first + 50], 1, "image")
            assert sum(hit[0].id == item for hit, item in zip(hits, IDS[first:], strict=False)) >= 45
    with open_index(place, index=kind, nprobe=8) as index:
        index.save()
        assert len(index) == 600
    with pytest.raises(ValueError, match="'Flat'"):
        open_index(f"lancedb+{tmp_path}/other", 32, "tiny@1", "LSH")


def test_readers_see_what_a_writer_adds(tmp_path):
    place = f"lancedb+{tmp_path}/items"
    with open_index(place, 32, "tiny@1") as writer, open_index(place, read_only=True) as reader:
        assert len(reader) == 0
        writer.add("image", IDS[:5], CLOUD[:5])
        assert (len(reader), reader.search(CLOUD[:1], 1)[0][0].id) == (5, "0")
        writer.remove("image", IDS[:1])
        assert ("image", "0") not in reader


def test_what_is_no_index(tmp_path):
    with pytest.raises(FileNotFoundError, match="no index"):
        open_index(f"lancedb+{tmp_path}/absent", 32, "tiny@1", read_only=True)
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="file"):
        open_index(f"lancedb+{tmp_path}/file", 32, "tiny@1")


def test_conditions_are_quoted():
    from modeling_unimur.index.lancedb import lance_filters

    assert lance_filters(conditions({"it's": "o'clock", "n": {"lt": 3}, "m": [1, True]})) == [
        "array_has_any(terms, ['[\"it''s\", \"o''clock\"]'])",
        "array_has_any(terms, ['[\"m\", 1.0]', '[\"m\", true]'])",
    ]
