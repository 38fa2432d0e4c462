"""Which kinds of index hold vectors in which precision."""

import pytest

from modeling_unimur.index import open_index
from modeling_unimur.index.precision import PRECISIONS, is_quantized, precision_of, require_kind, with_precision


@pytest.mark.parametrize(
    ("index", "precision", "kind"),
    [
        (None, None, "Flat"),
        (None, "float32", "Flat"),
        (None, "int8", "SQ8"),
        (None, "binary", "memory,binary"),
        ("memory", None, "memory"),
        ("memory", "float32", "memory"),
        ("memory", "int8", "memory,int8"),
        ("Flat", "int8", "SQ8"),
        ("SQ8", "int8", "SQ8"),
        ("HNSW32", "int8", "HNSW32_SQ8"),
        ("IVF1024,Flat", "int8", "IVF1024,SQ8"),
        ("IVF1024,SQ8", "int8", "IVF1024,SQ8"),
        ("IVF1024,PQ48,RFlat", None, "IVF1024,PQ48,RFlat"),
    ],
)
def test_kinds_with_a_precision(index, precision, kind):
    assert with_precision(index, precision) == kind
    assert precision_of(kind) == (None if "PQ" in kind else precision or "float32")
    assert is_quantized(kind) == (kind in ("memory,int8", "memory,binary"))
    for again in (None, index or kind):
        require_kind("here", kind, again, precision)


@pytest.mark.parametrize(
    ("index", "precision", "named"),
    [
        ("Flat", "binary", "Flat.*binary"),
        ("IVF1024,PQ48", "int8", "IVF1024,PQ48.*int8"),
        ("IVF1024,SQ8", "float32", "IVF1024,SQ8.*float32"),
        (None, "int4", "int4"),
    ],
)
def test_a_precision_that_a_kind_has_not(tmp_path, index, precision, named):
    with pytest.raises(ValueError, match=named):
        open_index(tmp_path / "index", 16, "tiny@1", index, precision=precision)
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize(("index", "precision"), [("Flat", "int8"), ("HNSW16", "int8"), (None, "binary")])
def test_milvus_refuses_what_it_has_not(tmp_path, index, precision):
    pytest.importorskip("milvus_lite")
    with pytest.raises(ValueError, match="Milvus makes"):
        open_index(tmp_path / "items.db", 16, "tiny@1", index, precision=precision)


def test_milvus_holds_inverted_files_in_int8(tmp_path):
    pytest.importorskip("milvus_lite")
    with open_index(tmp_path / "items.db", 16, "tiny@1", "IVF2,Flat", precision="int8") as index:
        assert index.factory == "IVF2,SQ8"
    for asked in ({}, {"precision": "int8"}, {"index": "IVF2,Flat"}, {"index": "IVF2,SQ8"}):
        open_index(tmp_path / "items.db", **asked).close()
    for asked in ({"precision": "float32"}, {"index": "Flat"}):
        with pytest.raises(ValueError, match="build another"):
            open_index(tmp_path / "items.db", **asked)


@pytest.mark.parametrize(
    ("held", "index", "precision"),
    [
        ("Flat", "memory", None),
        ("memory,int8", "Flat", None),
        ("memory,int8", "memory", "binary"),
        ("SQ8", None, "float32"),
        ("IVF8,PQ48", None, "int8"),
    ],
)
def test_another_kind_or_precision_is_refused(held, index, precision):
    with pytest.raises(ValueError, match="build another"):
        require_kind("here", held, index, precision)


def test_names_are_those_of_sentence_transformers():
    assert set(PRECISIONS) <= {"float32", "int8", "uint8", "binary", "ubinary"}
