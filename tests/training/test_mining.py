"""Hard negatives against brute force, and what is dropped."""

from collections import Counter

import numpy as np
import pytest
import torch
from datasets import Dataset
from sentence_transformers import CrossEncoder

from modeling_unimur import UniVLDRModel, UniVLDRProcessor
from modeling_unimur.data.retrieval_set import RetrievalSet
from modeling_unimur.encoding.encoder import Encoder
from modeling_unimur.index.second_stage import Candidate, Reranker
from modeling_unimur.training import mining
from modeling_unimur.training.documents import DecodedImages, Documents, PooledImages
from modeling_unimur.training.mining import (
    MiningOptions,
    mine_rows,
    mine_vectors,
    mined_of,
    read_mined,
    write_mined,
)
from modeling_unimur.training.query_rows import QueryRows
from tests import tiny
from tests.training.univl_dr_set import write_set


@pytest.fixture(scope="module")
def vectors():
    torch.manual_seed(0)
    return tuple(torch.nn.functional.normalize(torch.randn(rows, 16), dim=-1) for rows in (20, 300))


def right_documents(queries, per_query=3):
    rng = np.random.default_rng(0)
    return [rng.choice(300, per_query, replace=False).tolist() for _ in range(len(queries))]


@pytest.mark.parametrize("sizes", [(512, 50_000), (7, 23)])
@pytest.mark.parametrize("joint", [True, False])
def test_equals_brute_force(vectors, joint, sizes, monkeypatch):
    monkeypatch.setattr(mining, "_CHUNK", sizes[0])
    monkeypatch.setattr(mining, "_BLOCK", sizes[1])
    queries, documents = vectors
    kinds = ["image" if number % 3 == 0 else "text" for number in range(300)]
    right = right_documents(queries)
    found = mine_vectors(queries, documents, kinds, right, MiningOptions(depth=40, joint=joint))
    scores = (queries @ documents.T).numpy()
    for row, negatives in enumerate(found):
        order = np.argsort(-scores[row]).tolist()
        for kind in ("image", "text"):
            searched = order[:40] if joint else [n for n in order if kinds[n] == kind][:40]
            assert negatives[kind] == [n for n in searched if kinds[n] == kind and n not in right[row]]


def test_no_queries(vectors):
    assert mine_vectors(vectors[0][:0], vectors[1], ["text"] * 300, []) == []


def test_keeps_no_more_than_asked(vectors):
    queries, documents = vectors
    kinds = ["text"] * 300
    found = mine_vectors(queries, documents, kinds, right_documents(queries), MiningOptions(depth=40, keep=5))
    assert {len(row["text"]) for row in found} == {5}
    assert {len(row["image"]) for row in found} == {0}


def test_drops_what_is_right_under_another_id():
    angles = torch.tensor([0.0, 1, 2, 3, 30, 40])
    documents = torch.stack([torch.cos(angles.deg2rad()), torch.sin(angles.deg2rad())], dim=1)
    texts = ["The  right words", "the right WORDS", "other", "others", "far", "farther"]
    groups = ["one", "", "one", "", "", ""]
    known = [{0, 4}]  # 4 is excluded, without being right

    def mined(report=None, **options):
        options = MiningOptions(depth=6, **options)
        kinds = ["text"] * 6
        found = mine_vectors(documents[:1], documents, kinds, [[0]], options, texts, groups, report, known=known)
        return found[0]["text"]

    report = Counter()
    assert mined(report) == [3, 5]
    assert report == {"right": 2, "of a right one's words": 1, "of a right one's group": 1}
    assert mined(drop_same_text=False) == [1, 3, 5]
    assert mined(drop_same_group=False) == [2, 3, 5]
    assert mined(max_similarity=float(np.cos(np.deg2rad(3.5)))) == [5]
    with pytest.raises(ValueError, match="positive"):
        MiningOptions(depth=0)


# -- a reranker that drops what it takes for right ------------------------------------------------------------------
@pytest.mark.parametrize(
    ("options", "right", "limit"),
    [
        ({}, [0.2, 0.8, np.nan], 0.8),
        ({"absolute_margin": 0.1}, [0.8], 0.7),
        ({"relative_margin": 0.25}, [0.8], 0.6),
        ({"relative_margin": 0.25}, [-0.8], -1.0),  # of its magnitude
        ({"max_score": 0.5}, [0.8], 0.5),
        ({"max_score": 0.9}, [0.8], 0.9),
        ({"max_score": 0.5, "absolute_margin": 0.4}, [0.8], 0.4),
        ({"relative_margin": 0.25}, [np.nan], np.inf),
        ({"absolute_margin": 0.25, "max_score": 0.5}, [], 0.5),
    ],
)
def test_the_limit_of_a_negative(options, right, limit):
    found = MiningOptions(reranker="model", **options).score_limit(np.array(right))
    assert found == pytest.approx(limit)


@pytest.mark.parametrize("name", ["max_score", "absolute_margin", "relative_margin"])
def test_margins_are_those_of_a_reranker(name):
    with pytest.raises(ValueError, match="reranker"):
        MiningOptions(**{name: 0.5})


def test_drops_what_the_judge_scores_above_the_best_right_document():
    documents = torch.nn.functional.normalize(torch.arange(1.0, 13).reshape(6, 2), dim=-1)
    report = Counter()
    scores = np.array([0.3, 0.6, 0.9, np.nan, 0.6, 0.1])

    def mined(**options):
        chosen = MiningOptions(reranker="judge", **options)
        judge = lambda query, numbers: scores[numbers]  # noqa: E731
        found = mine_vectors(documents[:1], documents, ["text"] * 6, [[0, 1]], chosen, report=report, judge=judge)
        return sorted(found[0]["text"])

    assert mined() == [3, 4, 5]  # what has no score stays
    assert report["right by the reranker"] == 1
    assert mined(absolute_margin=0.1) == [3, 5]
    assert mined(max_score=0.05) == [3]


def test_files(tmp_path):
    mined = {"q": (["i1"], ["t1", "t2"]), "r": ([], [])}
    for name in ("mined.parquet", "mined.jsonl"):
        write_mined(mined, tmp_path / "new" / name)
        assert read_mined(tmp_path / "new" / name) == mined
    with pytest.raises(ValueError, match=r"\.parquet"):
        write_mined(mined, tmp_path / "mined.csv")
    with pytest.raises(FileNotFoundError, match="unimur mine"):
        read_mined(tmp_path / "nowhere.parquet")
    (tmp_path / "bad.jsonl").write_text('{"query": 1}\n')
    with pytest.raises(ValueError, match="query_id"):
        read_mined(tmp_path / "bad.jsonl")


# -- by a model -----------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def parts(clip_folder):
    return UniVLDRModel.from_backbones(str(clip_folder)), UniVLDRProcessor.from_backbones(str(clip_folder))


@pytest.fixture(scope="module")
def retrieval(tmp_path_factory):
    return RetrievalSet.load(write_set(tmp_path_factory.mktemp("set") / "set"))


def test_embeds_each_document_as_the_model_does(parts, retrieval):
    model, processor = parts
    documents = Documents(retrieval)
    model.train()
    found = Encoder(model, processor).encode_documents(documents, DecodedImages(processor), batch_size=5)
    assert model.training
    model.eval()
    with torch.no_grad():
        for number in (0, 1, 30, 47):
            one = documents[number]
            inputs = (
                processor.process_texts([one.text])
                if one.kind == "text"
                else processor.process_documents([one.image], [one.text])
            )
            alone = model.get_multimodal_features(**inputs).pooler_output[0]
            torch.testing.assert_close(found[number], alone, atol=1e-5, rtol=0)
    encoder = Encoder(model, processor)
    captions = encoder.encode_documents([documents[1]])  # without images: their captions
    torch.testing.assert_close(captions, encoder.encode_queries([documents[1].text]), atol=1e-6, rtol=0)


def test_cached_features_give_the_same(parts, retrieval, tmp_path, monkeypatch):
    monkeypatch.setenv("UNIMUR_CACHE", str(tmp_path))
    model, processor = parts
    documents = Documents(retrieval)
    bad = documents[1]._replace(image="nowhere.png")
    pooled = PooledImages(model, processor, [*documents.images, bad.image])
    assert pooled.unreadable == {"nowhere.png"}
    encoder = Encoder(model, processor)
    direct = encoder.encode_documents([*documents, bad], DecodedImages(processor))
    torch.testing.assert_close(encoder.encode_documents([*documents, bad], pooled), direct, atol=1e-5, rtol=0)


def test_mines_the_corpus_for_every_row(parts, retrieval):
    model, processor = parts
    documents = Documents(retrieval)
    rows = QueryRows(retrieval, documents)
    pictures = DecodedImages(processor)
    options = MiningOptions(depth=10, drop_same_group=False)
    mined = mine_rows(model, processor, rows, documents, pictures, options)
    assert list(mined) == rows.queries
    vectors = Encoder(model, processor).encode_documents(list(documents), pictures)
    scores = Encoder(model, processor).encode_queries(rows.texts) @ vectors.T
    for row, query in enumerate(rows.queries):
        best = [documents.ids[number] for number in scores[row].argsort(descending=True)[:10].tolist()]
        known = {documents.ids[number] for number in rows.known[row]}
        for kind, found in zip(("image", "text"), mined[query], strict=True):
            assert found == [doc for doc in best if doc not in known and doc.startswith(kind)]
    grouped = mine_rows(model, processor, rows, documents, pictures, MiningOptions(depth=10))
    assert not any(doc.endswith("cat") for found in grouped["text-query-red-cat"] for doc in found)
    columns = {
        "query_id": list(mined),
        "image": [i for i, _ in mined.values()],
        "text": [t for _, t in mined.values()],
    }
    assert mined_of(Dataset.from_dict(columns)) == mined


def test_a_cross_encoder_drops_what_it_scores_above_the_right_documents(parts, retrieval, tmp_path):
    model, processor = parts
    documents = Documents(retrieval)
    rows = QueryRows(retrieval, documents)
    folder = tiny.cross_encoder(tmp_path)
    found = {
        name: mine_rows(model, processor, rows, documents, DecodedImages(processor), MiningOptions(20, reranker=name))
        for name in (None, str(folder))
    }
    score, dropped = Reranker(CrossEncoder(str(folder), device="cpu")).scores, 0
    for row, query in enumerate(rows.queries):
        text = rows.texts[row]
        limit = score([(text, Candidate(documents.texts[number])) for number in rows.right[row]]).max()
        for before, after in zip(*(mined[query] for mined in found.values()), strict=True):
            scores = score([(text, Candidate(documents.texts[documents.numbers[doc]])) for doc in before])
            assert after == [doc for doc, value in zip(before, scores, strict=True) if value <= limit + 1e-6]
            dropped += len(before) - len(after)
    assert 0 < dropped < sum(len(docs) for kinds in found[None].values() for docs in kinds)
