"""What is LanceDB's own: other processes, object stores' memory, its SQL."""

from __future__ import annotations

import pytest

from modeling_unimur.index import open_index
from modeling_unimur.memory_index import conditions
from tests.index.test_database import CLOUD, IDS, fill

pytest.importorskip("lancedb")
pytestmark = pytest.mark.slow


def test_memory_of_the_process():
    with open_index("lancedb+memory://", 32, "tiny@1", "HNSW16", nprobe=8) as index:
        assert len(fill(index)) == 600


def test_readers_see_what_a_writer_adds(tmp_path):
    place = f"lancedb+{tmp_path}/items"
    with open_index(place, 32, "tiny@1") as writer, open_index(place, read_only=True) as reader:
        assert len(reader) == 0
        writer.add("image", IDS[:5], CLOUD[:5])
        assert (len(reader), reader.search(CLOUD[:1], 1)[0][0].id) == (5, "0")
        writer.remove("image", IDS[:1])
        assert ("image", "0") not in reader


def test_conditions_are_quoted():
    from modeling_unimur.index.lancedb import lance_filters

    assert lance_filters(conditions({"it's": "o'clock", "n": {"lt": 3}, "m": [1, True]})) == [
        "array_has_any(terms, ['[\"it''s\", \"o''clock\"]'])",
        "array_has_any(terms, ['[\"m\", 1.0]', '[\"m\", true]'])",
    ]
