"""Building an index: vectors, what a second run does, and what follows a change of the source."""

import json
import os

import numpy as np
import pytest
import torch

from modeling_unimur import MultimodalRetrievalPipeline
from modeling_unimur.data.source_folders import source_folders
from modeling_unimur.encoding.build import build_index
from modeling_unimur.encoding.encoder import Encoder
from modeling_unimur.image_loading import load_image
from modeling_unimur.index import hybrid, open_index
from tests import tiny
from tests.encoding.corpora import assert_same_content, content, image_folder, options, picture
from tests.index.databases import DATABASES, PLACES, database


def skipped(report) -> dict[str, str]:
    with open(report.skipped_file, encoding="utf-8") as lines:
        found = {record["item"]: record["reason"] for record in map(json.loads, lines)}
    assert len(found) == report.skipped
    return found


def test_vectors_are_the_model_s(encoder, pair, corpus, tmp_path):
    model, processor = pair
    report = build_index(corpus, encoder, tmp_path / "index", options())
    assert (report.items, report.encoded, report.added, report.skipped) == (12, 12, 12, 0)
    found = content(tmp_path / "index")
    for (kind, name), (payload, vector) in found.items():
        assert kind == "image"
        assert payload == {"image": str(corpus / name)}
        with torch.no_grad():
            inputs = processor.process_images([load_image(corpus / name)])
            expected = model.get_image_features(**inputs).pooler_output[0]
        np.testing.assert_allclose(vector, expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("kind", ["HNSW16", "memory", *DATABASES])
def test_the_pipeline_searches_what_was_built(encoder, pair, corpus, tmp_path, kind):
    uri, kind = (database(kind, tmp_path), "Flat") if kind in PLACES else (tmp_path / "index", kind)
    build_index(corpus, encoder, uri, options(index=kind))
    assert build_index(corpus, encoder, uri, options()).unchanged == 12
    assert list(tmp_path.glob("*.encoding"))  # beside the index, wherever a database keeps it
    retriever, plain = (MultimodalRetrievalPipeline(model=pair[0], processor=pair[1]) for _ in range(2))
    retriever.load_index(uri)
    files = sorted(corpus.rglob("*.png"))
    plain.add(images=[str(file) for file in files], image_ids=[file.relative_to(corpus).as_posix() for file in files])
    mine, theirs = retriever("hi", top_k=12)["image"], plain("hi", top_k=12)["image"]
    assert [hit["id"] for hit in mine] == [hit["id"] for hit in theirs]
    assert [hit["score"] for hit in mine] == pytest.approx([hit["score"] for hit in theirs], abs=1e-5)
    retriever.index.close()


@pytest.mark.parametrize("kind", ["Flat", "memory"])
def test_words_are_kept_from_the_run_that_asks_for_them(encoder, tmp_path, kind):
    def write(*texts):
        (tmp_path / "texts.txt").write_text("\n".join(texts))

    def found(query):
        with open_index(tmp_path / "index", read_only=True) as index:
            hits = hybrid.search(index, np.eye(1, index.width, dtype=np.float32), [query], 1.0)[0]
            return [hit.payload["text"] for hit in hits]

    write("a harbour", "a lighthouse")
    source = tmp_path / "texts.txt"
    build_index(source, encoder, tmp_path / "index", options(index=kind))
    with pytest.raises(ValueError, match="--bm25"):
        found("harbour")
    report = build_index(source, encoder, tmp_path / "index", options(bm25=True))
    assert (report.unchanged, report.added, report.encoded) == (2, 0, 0)
    assert found("harbour") == ["a harbour"]
    version = (tmp_path / "index" / "CURRENT").read_text()
    build_index(source, encoder, tmp_path / "index", options(bm25=True))
    assert (tmp_path / "index" / "CURRENT").read_text() == version
    write("a bridge", "a lighthouse")
    build_index(source, encoder, tmp_path / "index", options())
    assert (found("bridge"), found("harbour")) == (["a bridge"], [])


def test_words_beside_a_database_are_refused_before_anything_is_encoded(counting, corpus, tmp_path):
    with pytest.raises(ValueError, match="Milvus"):
        build_index(corpus, counting, tmp_path / "items.db", options(bm25=True))
    assert counting.seen == 0


def test_a_second_run_does_nothing(counting, corpus, tmp_path):
    build_index(corpus, counting, tmp_path / "index", options())
    assert counting.seen == 12
    version = (tmp_path / "index" / "CURRENT").read_text()
    report = build_index(corpus, counting, tmp_path / "index", options())
    assert (report.unchanged, report.encoded, report.added, counting.seen) == (12, 0, 0, 12)
    assert (tmp_path / "index" / "CURRENT").read_text() == version


def test_an_update_takes_what_changed(counting, corpus, tmp_path):
    uri = tmp_path / "index"
    build_index(corpus, counting, uri, options())
    picture(corpus / "new.png", 100)
    picture(corpus / "a" / "0.png", 101)
    (corpus / "b" / "1.png").unlink()
    (corpus / "b" / "3.png").rename(corpus / "moved.png")
    os.utime(corpus / "a" / "2.png", (1, 1))  # read again, and found the same
    report = build_index(corpus, counting, uri, options(), must_exist=True)
    assert counting.seen == 12 + 2
    assert (report.items, report.encoded, report.known, report.unchanged) == (12, 2, 2, 8)
    assert (report.added, report.replaced, report.removed) == (2, 1, 2)
    build_index(corpus, counting, tmp_path / "anew", options())
    assert_same_content(content(uri), content(tmp_path / "anew"))


def test_a_source_that_is_empty_removes_nothing(encoder, corpus, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="0 items"):
        build_index(tmp_path / "empty", encoder, tmp_path / "index", options())
    build_index(corpus, encoder, tmp_path / "index", options())
    corpus.rename(tmp_path / "elsewhere")
    corpus.mkdir()
    with pytest.raises(ValueError, match="12 items"):
        build_index(corpus, encoder, tmp_path / "index", options())
    assert len(content(tmp_path / "index")) == 12


def test_bad_pictures_are_skipped_counted_and_listed(counting, corpus, tmp_path):
    uri = tmp_path / "index"
    (corpus / "words.png").write_text("no picture")
    (corpus / "cut.png").write_bytes((corpus / "a" / "0.png").read_bytes()[:200])
    (corpus / "empty.png").touch()
    report = build_index(corpus, counting, uri, options())
    assert (report.items, report.skipped) == (12, 3)
    reasons = skipped(report)
    assert set(reasons) == {"words.png", "cut.png", "empty.png"}
    assert "not an image" in reasons["words.png"]
    assert "damaged" in reasons["cut.png"]
    assert "no bytes" in reasons["empty.png"]
    report = build_index(corpus, counting, uri, options())
    assert (report.unchanged, report.encoded, report.skipped, counting.seen) == (15, 0, 3, 12)
    # One is mended, and one that was good goes bad.
    picture(corpus / "cut.png", 50)
    (corpus / "a" / "0.png").write_bytes(b"spoilt")
    report = build_index(corpus, counting, uri, options())
    assert set(skipped(report)) == {"words.png", "empty.png", "a/0.png"}
    assert ("image", "a/0.png") not in content(uri)
    assert (report.items, report.removed, report.added) == (12, 1, 1)


def test_a_content_is_encoded_once(counting, tmp_path):
    for number in range(12):
        picture(tmp_path / "corpus" / f"{number}.png", number % 3)
    report = build_index(tmp_path / "corpus", counting, tmp_path / "index", options())
    assert (report.encoded, report.known, report.items, counting.seen) == (3, 9, 12, 3)
    assert len(content(tmp_path / "index")) == 12


def test_texts_and_pictures_of_two_sources(encoder, counting, corpus, tmp_path):
    lines = [{"id": f"t{n}", "text": f"text number {n}", "year": 2000 + n} for n in range(7)]
    lines += [{"id": "t0", "text": "again"}, {"id": "p", "image": "corpus/a/0.png", "text": "a caption"}]
    (tmp_path / "lines.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    uri = tmp_path / "index"
    build_index(corpus, counting, uri, options())
    report = build_index(tmp_path / "lines.jsonl", counting, uri, options())
    assert (report.items, report.encoded, report.known, report.removed) == (8, 7, 1, 0)
    assert skipped(report) == {"t0": "the id of an earlier text: the first one counts"}
    found = content(uri)
    assert len(found) == 12 + 8
    assert found["text", "t3"][0] == {"text": "text number 3", "year": 2003}
    np.testing.assert_allclose(found["image", "p"][1], found["image", "a/0.png"][1], atol=1e-6)
    with open_index(uri, read_only=True) as index:
        query = index.search(np.eye(24, dtype=np.float32)[:1], 20, where={"year": {"gte": 2005}})
        assert {hit.id for hit in query[0]} == {"t5", "t6"}
    # A payload that changed is no new content.
    lines[1]["year"] = 1999
    (tmp_path / "lines.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    report = build_index(tmp_path / "lines.jsonl", counting, uri, options())
    assert (report.encoded, report.replaced, counting.seen) == (0, 1, 12 + 7)
    assert content(uri)["text", "t1"][0]["year"] == 1999


def test_an_index_that_is_gone_is_filled_from_the_vectors(counting, corpus, tmp_path):
    build_index(corpus, counting, tmp_path / "index", options())
    before = content(tmp_path / "index")
    (tmp_path / "index").rename(tmp_path / "elsewhere")
    report = build_index(corpus, counting, tmp_path / "index", options())
    assert (report.unchanged, report.added, counting.seen) == (12, 12, 12)
    assert_same_content(content(tmp_path / "index"), before)


def test_a_lost_shard_of_vectors_is_encoded_again(counting, corpus, tmp_path):
    build_index(corpus, counting, tmp_path / "index", options())
    before = content(tmp_path / "index")
    sorted((tmp_path / "index.encoding" / "vectors").rglob("*.safetensors"))[0].unlink()
    (tmp_path / "index").rename(tmp_path / "elsewhere")
    build_index(corpus, counting, tmp_path / "index", options())
    assert 12 < counting.seen < 24
    assert_same_content(content(tmp_path / "index"), before)


def test_lost_vectors_are_noticed_beside_those_of_older_contents(counting, corpus, tmp_path):
    build_index(corpus, counting, tmp_path / "index", options())
    for number in range(8):  # what the store has of these is of no use any more
        picture(corpus / "ab"[number % 2] / f"{number}.png", 100 + number)
    build_index(corpus, counting, tmp_path / "index", options())
    before = content(tmp_path / "index")
    latest = max((tmp_path / "index.encoding").rglob("*.safetensors"), key=lambda shard: shard.stat().st_mtime_ns)
    latest.unlink()
    (tmp_path / "index").rename(tmp_path / "elsewhere")
    build_index(corpus, counting, tmp_path / "index", options())
    assert 20 < counting.seen < 32
    assert_same_content(content(tmp_path / "index"), before)


def test_an_index_keeps_what_it_has_where_vectors_are_lost(counting, corpus, tmp_path):
    other = picture(tmp_path / "other" / "x.png", 50).parent
    for source in (corpus, other):
        build_index(source, counting, tmp_path / "index", options())
    before = content(tmp_path / "index")
    for shard in (tmp_path / "index.encoding" / "vectors").rglob("*.safetensors"):
        shard.unlink()
    report = build_index(other, counting, tmp_path / "index", options())
    assert (report.encoded, report.replaced, report.removed) == (1, 0, 0)
    assert_same_content(content(tmp_path / "index"), before)
    report = build_index(corpus, counting, tmp_path / "index", options())
    assert (report.encoded, report.replaced, report.removed) == (12, 0, 0)
    assert_same_content(content(tmp_path / "index"), before)


def test_inverted_files_are_trained_first(encoder, tmp_path):
    folder = image_folder(tmp_path / "corpus", 60)
    report = build_index(folder, encoder, tmp_path / "index", options(index="IVF2,Flat", chunk_size=100))
    assert report.added == 60
    assert len(content(tmp_path / "index")) == 60


def test_decoding_processes_change_nothing(encoder, corpus, tmp_path):
    build_index(corpus, encoder, tmp_path / "one", options())
    build_index(corpus, encoder, tmp_path / "two", options(workers=2))
    assert_same_content(content(tmp_path / "two"), content(tmp_path / "one"))


def test_from_a_model_folder(pair, encoder, corpus, tmp_path, monkeypatch):
    for part in pair:
        part.save_pretrained(tmp_path / "model")
    build_index(corpus, tmp_path / "model", tmp_path / "index", options())
    build_index(corpus, encoder, tmp_path / "other", options())
    assert_same_content(content(tmp_path / "index"), content(tmp_path / "other"))
    # With nothing to do, the model is not even loaded.
    monkeypatch.setattr(Encoder, "load", lambda *_: 1 / 0)
    assert build_index(corpus, tmp_path / "model", tmp_path / "index", options()).unchanged == 12


def test_heads_alone_need_no_language_model(make_model, clip_folder, encoder, corpus, tmp_path):
    model, processor = make_model()
    model.config.text_base_model, model.config.clip_base_model = "acme/never", str(clip_folder)
    model.save_pretrained(tmp_path / "heads", heads_only=True)
    processor.save_pretrained(tmp_path / "heads")
    build_index(corpus, tmp_path / "heads", tmp_path / "index", options())
    build_index(corpus, encoder, tmp_path / "other", options())
    assert_same_content(content(tmp_path / "index"), content(tmp_path / "other"))


def test_another_model_is_refused(encoder, make_model, corpus, tmp_path):
    build_index(corpus, encoder, tmp_path / "index", options())
    stranger = Encoder(*make_model(clip=tiny.clip(tmp_path / "clip", seed=99)))
    with pytest.raises(ValueError, match="vectors of"):
        build_index(corpus, stranger, tmp_path / "index", options())
    with pytest.raises(ValueError, match="made by"):
        build_index(corpus, stranger, tmp_path / "index", options(work=str(tmp_path / "work")))


def test_what_is_refused(encoder, make_model, corpus, tmp_path):
    with pytest.raises(FileNotFoundError, match="index build"):
        build_index(corpus, encoder, tmp_path / "index", options(), must_exist=True)
    with pytest.raises(FileNotFoundError, match="There is no"):
        build_index(tmp_path / "nothing", encoder, tmp_path / "index", options())
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        build_index(corpus, corpus, tmp_path / "index", options())
    with pytest.raises(ValueError, match="dual encoder"):
        build_index(corpus, Encoder(*make_model(clip=None, projection_dim=16)), tmp_path / "index", options())
    for name in ("batch_size", "chunk_size"):
        with pytest.raises(ValueError, match=name):
            options(**{name: 0})
    with pytest.raises(ValueError, match="engine"):
        options(engine="spark")
    assert not (tmp_path / "index").exists()


def test_the_folder_of_a_source_is_noted_on_this_computer(encoder, corpus, tmp_path):
    """Whoever shows images of the index needs to know which folders its owner named; see `AllowedImages`."""
    build_index(corpus, encoder, tmp_path / "index", options())
    assert source_folders(tmp_path / "index") == [corpus]
    (tmp_path / "index").rename(tmp_path / "moved")
    assert source_folders(tmp_path / "moved") == []


@pytest.mark.parametrize("precision", [None, "int8", "binary"])
def test_small_vectors_are_cut_from_those_that_are_kept(encoder, pair, corpus, tmp_path, precision):
    whole = build_index(corpus, encoder, tmp_path / "whole", options(work=str(tmp_path / "work")))
    assert whole.encoded == 12
    uri, small = tmp_path / "small", {"index": "memory", "precision": precision, "truncate_dim": 3}
    build_index(corpus, encoder, uri, options(**small))
    for changes in ({}, small):  # an existing index keeps its own
        assert build_index(corpus, encoder, uri, options(**changes), must_exist=True).unchanged == 12
    with open_index(uri, read_only=True) as index, open_index(tmp_path / "whole", read_only=True) as full:
        assert (index.width, len(index)) == (3, 12)
        vectors = {hit.id: hit.vector[:3] for hit in full.search(np.eye(1, full.width), 12, with_vectors=True)[0]}
        for hit in index.search(np.eye(1, 3), 12)[0]:
            expected = vectors[hit.id] / np.linalg.norm(vectors[hit.id])
            assert hit.score == pytest.approx(expected[0], abs=1e-6 if precision is None else 0.02)
    for changes, named in [
        ({"truncate_dim": 4}, "of 3 numbers, not of 4"),
        ({"precision": "float32" if precision else "int8"}, "build another"),
    ]:
        picture(corpus / "new.png", 77)
        with pytest.raises(ValueError, match=named):
            build_index(corpus, encoder, uri, options(**changes))
    retriever = MultimodalRetrievalPipeline(model=pair[0], processor=pair[1], truncate_dim=3)
    build_index(corpus, encoder, uri, options())
    retriever.load_index(uri)
    assert len(retriever("hi", top_k=20)["image"]) == 13
    with pytest.raises(ValueError, match="truncate_dim must be at most"):
        build_index(corpus, encoder, tmp_path / "wide", options(truncate_dim=10**6))
    with pytest.raises(ValueError, match="truncate_dim"):
        options(truncate_dim=0)


def test_what_a_kind_has_not_is_refused_before_anything_is_encoded(counting, corpus, tmp_path):
    with pytest.raises(ValueError, match="binary"):
        build_index(corpus, counting, tmp_path / "index", options(index="Flat", precision="binary"))
    assert not (tmp_path / "index").exists()
