"""Universal retrieval: the settings, the systems, the shares, what dev chooses; figures worked out by hand."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from benchmarks.ladder_rows import Rows
from modeling_unimur import UniVLDRModel, UniVLDRProcessor
from modeling_unimur.data.retrieval_set import RetrievalSet
from modeling_unimur.encoding.encoder import Encoder
from modeling_unimur.evaluation.evaluator import Encoded
from modeling_unimur.evaluation.metrics import rank
from modeling_unimur.evaluation.report import load_result
from modeling_unimur.evaluation.systems.base import BOTH
from modeling_unimur.evaluation.universal import (
    DivideAndConquer,
    Hybrid,
    OracleModality,
    RetrievalTask,
    Space,
    bm25_system,
    choose_image_weight,
    choose_weights,
    dense_system,
    encode_documents,
    encode_queries,
    ranked,
    setting_figures,
    universal_result,
    with_bm25,
)
from modeling_unimur.evaluation.universal.encoding import EncodedDocuments, unit
from modeling_unimur.index.hybrid import search
from modeling_unimur.memory_index import RetrievalIndex
from tests.evaluation.universal_sets import TOPICS, TopicEncoder, retrieval_set

KINDS = np.array([False, True, False, True])


def given(scores, kinds=KINDS):
    """Scores as written down."""
    system = SimpleNamespace(has_vectors=False, scores=lambda queries, *_: np.stack(queries))
    return Encoded(system, np.asarray(scores, dtype=float), {"both": None}, is_image=kinds)


def task(relevance, kinds=KINDS, excluded=None, query_kinds=None):
    count = len(kinds)
    return RetrievalTask(
        query_ids=[f"q{n}" for n in range(len(relevance))],
        query_texts=["?"] * len(relevance),
        query_kinds=query_kinds or [""] * len(relevance),
        doc_ids=[f"d{n}" for n in range(count)],
        doc_texts=[""] * count,
        doc_images=[""] * count,
        is_image=kinds,
        relevance=relevance,
        excluded=excluded or [np.array([], int)] * len(relevance),
        doc_groups=[""] * count,
    )


# -- settings ---------------------------------------------------------------------------------------------------------
def test_settings_search_their_kind_for_the_queries_that_it_answers():
    asked = task([{0: 1}, {1: 1, 2: 2}, {3: 1}])
    scores = [[1, 9, 5, 0], [1, 2, 3, 4], [9, 8, 7, 6]]
    values = setting_figures(given(scores), asked).values
    nothing = np.nan
    np.testing.assert_allclose(values["text mrr@10"], [50, 100, nothing])  # 2 before 0; 2 before 0
    np.testing.assert_allclose(values["image mrr@10"], [nothing, 50, 50])  # 3 before 1; 1 before 3
    np.testing.assert_allclose(values["both mrr@10"], [100 / 3, 50, 25])
    np.testing.assert_allclose(values["both recall@20"], [100, 100, 100])
    # Relevance of the other kind does not count in a setting of one.
    np.testing.assert_allclose(values["image recall@20"], [nothing, 100, 100])
    with pytest.raises(ValueError, match="'video'"):
        setting_figures(given(scores), asked, ("video",))


def test_excluded_documents_are_taken_out():
    asked = task([{0: 1}], excluded=[np.array([1, 2])])
    system = given([[1, 9, 5, 0]])
    assert ranked(system, asked, "both", np.array([0]))[0, :3].tolist() == [0, 3, -1]
    assert setting_figures(system, asked).values["both mrr@10"] == 100


def test_blocks_make_no_difference(monkeypatch):
    rng = np.random.default_rng(0)
    asked = task([{int(rng.integers(4)): 1} for _ in range(9)])
    system, rows = given(rng.normal(size=(9, 4))), np.arange(9)
    whole = ranked(system, asked, "both", rows)
    monkeypatch.setattr("modeling_unimur.evaluation.universal.evaluate._SCORES_AT_A_TIME", 8)
    np.testing.assert_array_equal(ranked(system, asked, "both", rows), whole)


def test_task_of_a_set():
    asked = RetrievalTask.from_set(retrieval_set(), "test")
    assert len(asked.query_ids) == 2 * len(TOPICS)
    assert asked.is_image.tolist() == [False, True] * len(TOPICS)
    assert asked.relevance[1] == {1: 1}
    assert asked.excluded[0].tolist() == [2]
    np.testing.assert_array_equal(asked.relevant_kinds()[:2], [[True, False], [False, True]])
    assert RetrievalTask.from_set(graded_set(), "test", least_score=2).relevance == [{1: 2}]
    assert RetrievalTask.from_set(graded_set(), "test").relevance == [{0: 1, 1: 2}, {0: 1}]
    with pytest.raises(ValueError, match="'train'"):
        RetrievalTask.from_set(retrieval_set(), "train")


def graded_set():
    corpus = [{"doc_id": f"d{n}", "kind": "text", "text": "x", "image": ""} for n in range(2)]
    queries = {"test": [{"query_id": f"q{n}", "text": "?"} for n in range(3)]}
    qrels = [("q0", "d0", 1), ("q0", "d1", 2), ("q1", "d0", 1), ("q2", "d0", 0)]
    rows = [dict(zip(("query_id", "doc_id", "score"), row, strict=True)) for row in qrels]
    return RetrievalSet.from_rows(queries, corpus, {"test": rows})


# -- systems ----------------------------------------------------------------------------------------------------------
def test_divide_and_conquer_takes_turns(monkeypatch):
    texts, images, row = given([[0.1, 9, 0.9, 9]]), given([[9, 0.2, 9, 0.3]]), np.array([0])
    fused = DivideAndConquer(texts, images)
    order = np.argsort(-fused.scores("both", row)[0])
    assert order.tolist() == [2, 3, 0, 1]  # best text, best picture, second text, second picture
    monkeypatch.setattr("modeling_unimur.evaluation.universal.systems.MERGED_DEPTH", 1)
    one = fused.scores("both", row)[0]
    assert np.isneginf(one[[0, 1]]).all()
    assert np.isfinite(one[[2, 3]]).all()


def test_oracle_returns_the_right_kinds_alone():
    asked = task([{0: 1}, {1: 1, 2: 1}])
    system = OracleModality(given([[1, 2, 3, 4], [1, 2, 3, 4]]), asked.relevant_kinds())
    found = ranked(system, asked, "both", np.arange(2))
    assert found[0, :3].tolist() == [2, 0, -1]
    assert found[1, :4].tolist() == [3, 2, 1, 0]


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.8, 1.0, "rrf"])
@pytest.mark.parametrize("setting", ["both", "text", "image"])
def test_hybrid_ranks_as_the_index_does(weight, setting, monkeypatch):
    words = ["lion", "rock", "sun", "the moon", "lion lion", "rock and sun", "moon lion", "river", "sun sun", "lion"]
    rng = np.random.default_rng(0)
    vectors, queries = (unit(rng.standard_normal((count, 4)).astype(np.float32)) for count in (40, 6))
    # Of different lengths, so that hardly two documents have the same score by BM25.
    texts = [f"{words[n % len(words)]} {n % 3}" + " filler" * n for n in range(40)]
    kinds = np.arange(40) >= 27  # an index lists images last
    asked = ["a lion on a rock", "sun", "moon 2", "zebra", "river rock 1", "lion lion sun"]
    index = RetrievalIndex()
    for kind, field in (("text", "text"), ("image", "caption")):
        rows = np.flatnonzero(kinds == (kind == "image"))
        index.add(kind, [str(row) for row in rows], vectors[rows], [{field: texts[row]} for row in rows])
    for module in ("modeling_unimur.index.hybrid", "modeling_unimur.evaluation.universal.systems"):
        monkeypatch.setattr(f"{module}.FUSED_DEPTH", 8)
    system = Hybrid(dense_system(queries, vectors, kinds), bm25_system(asked, texts, kinds), weight)
    found = rank(system.scores(setting, np.arange(len(asked))), 8)
    kind = None if setting == "both" else setting
    expected = search(index, queries, asked, weight, 8, kind)
    ranked_ids = [[str(row) for row in rows if row >= 0] for rows in found]
    assert ranked_ids == [[hit.id for hit in hits] for hits in expected]


def test_hybrid_scales_both_scores_over_the_candidates():
    dense, sparse = given([[0.5, 0.4, 0.1, 0.0]]), given([[-np.inf, 4.0, 8.0, -np.inf]])
    row = np.array([0])
    np.testing.assert_allclose(Hybrid(dense, sparse, 0.5).scores("both", row), [[0.5, 0.65, 0.6, 0.0]])
    np.testing.assert_allclose(Hybrid(dense, sparse, 1).scores("both", row), [[-np.inf, 0.5, 1.0, -np.inf]])
    for wrong in (-1, 1.5, "sum"):
        with pytest.raises(ValueError, match="from 0 to 1"):
            Hybrid(dense, sparse, wrong)


def test_bm25_returns_what_shares_a_word():
    documents = ["the lion sleeps", "a rock", "nothing", "Lion: rock lion"]
    found = bm25_system(["a lion on a rock", "zebra"], documents, KINDS).scores("both", np.array([0, 1]))
    assert np.isneginf(found[0]).tolist() == [False, False, True, False]
    assert found[0].argmax() == 3
    assert np.isneginf(found[1]).all()


def test_dense_needs_one_width():
    system = dense_system(np.zeros((1, 2)), np.zeros((1, 3)), np.zeros(1, bool))
    with pytest.raises(ValueError, match="core dimension"):
        system.scores("both", np.array([0]))


# -- figures ----------------------------------------------------------------------------------------------------------
def test_shares_of_pictures():
    kinds = np.array([False] * 20 + [True] * 20)
    asked = task([{0: 1}, {20: 1, 21: 1, 1: 1}, {2: 1}], kinds=kinds, query_kinds=["a", "b", "a"])
    scores = np.full((3, 40), -np.inf)
    scores[0, :10] = 1
    scores[1, 15:25] = 1  # five texts, five pictures
    system = given(scores, kinds)
    values = setting_figures(system, asked).values
    nothing = np.nan
    np.testing.assert_allclose(values["both images@10"], [0, 50, nothing])  # the third returned nothing
    np.testing.assert_allclose(values["both images@10, a"], [0, nothing, nothing])
    rows = Rows(asked)
    rows.add("given", system)
    shares = rows.shares("given")
    assert shares["a"] == {"returned": 0.0, "relevant": 0.0, "queries": 2}
    assert shares["b"]["returned"] == 50
    assert shares["b"]["relevant"] == pytest.approx(200 / 3)
    assert shares["all"]["returned"] == 25
    assert shares["all"]["relevant"] == pytest.approx(200 / 9)


# -- encoding ---------------------------------------------------------------------------------------------------------
def test_weighted_documents():
    texts = np.array([[3.0, 0], [0, 2], [0, 0], [0, 5]], dtype=np.float32)
    images = np.array([[4.0, 0], [1, 1], [0, 0]], dtype=np.float32)
    kinds = np.array([False, True, True, True])
    documents = EncodedDocuments(
        texts, images, kinds, has_caption=np.array([True, False, True]), has_image=np.array([True, True, False])
    )
    found = documents.weighted(0.5)
    np.testing.assert_allclose(found[0], [1, 0])
    np.testing.assert_allclose(found[1], unit(np.array([[2.0, 2.0]]))[0])  # 0.5 x (4, 0) + (0, 2)
    np.testing.assert_allclose(found[2], unit(np.array([[1.0, 1.0]]))[0])  # no caption: the picture, unweighted
    np.testing.assert_allclose(found[3], [0, 1])  # no picture: the caption
    np.testing.assert_allclose(documents.weighted(0)[1], [0, 1])
    np.testing.assert_allclose(documents.weighted(0)[2], unit(np.array([[1.0, 1.0]]))[0])
    hidden = documents.without_captions().weighted(0.5)
    np.testing.assert_allclose(hidden[:3], [[1, 0], [1, 0], unit(np.array([[1.0, 1.0]]))[0]])
    assert not hidden[3].any()  # nothing is left of a picture that cannot be read


@pytest.fixture(scope="module")
def tiny(clip_folder):
    return UniVLDRModel.from_backbones(str(clip_folder)), UniVLDRProcessor.from_backbones(str(clip_folder))


def test_model_encodes_as_it_does_itself(tiny, pictures, tmp_path):
    model, processor = tiny
    (tmp_path / "broken.png").write_bytes(b"no picture")
    retrieval = retrieval_set([*pictures, str(tmp_path / "broken.png")])
    asked = RetrievalTask.from_set(retrieval, "test")
    encoder = Encoder(model, processor)
    documents = encode_documents(encoder, asked)
    assert documents.has_image.tolist() == [True, True, True, True, False, True, True, True]
    fused = documents.fused(encoder)
    with Image.open(pictures[1]) as picture:
        own = model.get_multimodal_features(**processor.process_documents([picture], ["a anchor"])).pooler_output
    np.testing.assert_allclose(fused[3], own.detach().numpy()[0], atol=1e-5)
    np.testing.assert_allclose(fused, documents.weighted(1.0), atol=1e-5)
    text = model.get_text_features(**processor.process_texts([asked.doc_texts[4]])).pooler_output
    np.testing.assert_allclose(fused[4], text.detach().numpy()[0], atol=1e-5)
    np.testing.assert_allclose(fused[9], documents.weighted(0.0)[9], atol=1e-6)  # its picture cannot be read
    queries = encode_queries(encoder, asked)
    np.testing.assert_allclose(np.linalg.norm(queries, axis=1), 1, atol=1e-5)


# -- what dev chooses -------------------------------------------------------------------------------------------------
def test_blind_images_get_less_weight():
    retrieval = retrieval_set()
    dev = RetrievalTask.from_set(retrieval, "validation")
    blind = TopicEncoder(blind=True)
    choice = choose_image_weight(encode_queries(blind, dev), encode_documents(blind, dev), dev)
    assert choice.value < 1
    assert choice.tried[0.0] > choice.tried[1.0]
    seeing = TopicEncoder()
    choice = choose_image_weight(encode_queries(seeing, dev), encode_documents(seeing, dev), dev)
    assert choice.tried[1.0] >= choice.tried[0.0]


# -- all of it --------------------------------------------------------------------------------------------------------
def evaluated(encoder, retrieval, split="test", **choices):
    """The model and what it is compared with, on a small set."""
    return universal_result(
        RetrievalTask.from_set(retrieval, split), {"UniVL-DR": encoder}, {"split": split}, **choices
    )


def test_evaluation_of_any_encoder(tmp_path):
    found = evaluated(TopicEncoder(), retrieval_set())
    assert list(found.systems) == [
        "UniVL-DR",
        "BM25",
        "BM25 & UniVL-DR",
        "BM25 & UniVL-DR, oracle modality",
        "UniVL-DR, oracle modality",
    ]

    def mean(system, measure):
        return found.interval(system, measure).mean

    assert mean("UniVL-DR", "both mrr@10") > 90
    # A text query shares no word with its text: BM25 finds images alone, by their captions.
    assert [mean("BM25", f"both mrr@10, {kind}") for kind in ("image", "text")] == [100, 0]
    assert mean("BM25", "text mrr@10") == 0
    assert mean("BM25", "both images@10") == 100
    values = found.systems["UniVL-DR"].values
    assert [np.isfinite(values[f"{s} mrr@10"]).sum() for s in ("text", "image")] == [len(TOPICS)] * 2
    assert found.difference("UniVL-DR", "BM25", "both mrr@10").low > 0
    found.save(tmp_path)
    assert list(load_result(tmp_path).systems) == list(found.systems)


def test_modality_gap_is_the_distance_of_the_means():
    gaps = [evaluated(TopicEncoder(gap=gap), retrieval_set()).data["modality_gap"] for gap in (0.0, 2.0)]
    assert 0 <= gaps[0] < gaps[1]
    space = Space(TopicEncoder(gap=2.0), RetrievalTask.from_set(retrieval_set(), "test"))
    texts, images = (space.documents[space.task.is_image == kind].mean(axis=0) for kind in (False, True))
    assert gaps[1] == pytest.approx(np.linalg.norm(texts - images))


def test_hybrid_has_the_weight_that_dev_chooses():
    splits = [RetrievalTask.from_set(retrieval_set(), name) for name in ("test", "validation")]
    found, weight = with_bm25("UniVL-DR", Space(TopicEncoder(), *splits))
    assert found["UniVL-DR + BM25 (hybrid)"].weight == weight.value
    assert weight.tried[weight.value] == max(weight.tried.values())
    assert with_bm25("UniVL-DR", Space(TopicEncoder(), splits[0]))[1] is None


def test_images_that_say_nothing_are_found_by_the_texts_beside_them():
    plain = retrieval_set()
    rows = [{**row, "group": row["doc_id"][1:]} for row in plain.corpus]
    silent = [{**row, "text": "figure", "image": ""} if row["kind"] == "image" else row for row in rows]
    tables = {name: [dict(row) for row in split] for name, split in plain.queries.items()}
    qrels = {name: list(split) for name, split in plain.qrels.items()}
    splits = [
        RetrievalTask.from_set(RetrievalSet.from_rows(tables, silent, qrels), name) for name in ("test", "validation")
    ]
    assert splits[0].doc_groups == [str(number // 2) for number in range(2 * len(TOPICS))]
    space = Space(TopicEncoder(), *splits)
    chosen = choose_weights([space, space])
    assert chosen == choose_weights([space])
    assert chosen["context_weight"] > 0
    assert chosen["weight"] == space.hybrid_weight().value
    placed = space.in_context(chosen["context_weight"])
    best = max(placed.hybrid_weight().tried.values())
    assert best == placed.hybrid_weight().tried[chosen["context_hybrid_weight"]]
    assert best > max(space.hybrid_weight().tried.values())
    np.testing.assert_array_equal(placed.documents[~splits[0].is_image], space.documents[~splits[0].is_image])
    before, after = (setting_figures(one.system(), splits[0]).values["image mrr@10"] for one in (space, placed))
    assert np.nanmean(after) == 100 > np.nanmean(before)
    # Without groups there is nothing to choose.
    bare = Space(TopicEncoder(), *(RetrievalTask.from_set(plain, name) for name in ("test", "validation")))
    assert choose_weights([bare])["context_weight"] == 0


def test_truncated_vectors_are_rows_of_their_own(tiny, pictures):
    width = tiny[0].config.embedding_width
    found = evaluated(Encoder(*tiny), retrieval_set(pictures), truncate_dims=(3, width))
    whole, cut = "UniVL-DR", [f"UniVL-DR, first {dim} numbers" for dim in (3, width)]
    assert list(found.systems)[:3] == [whole, *cut]
    for measure in found.measures():
        values = [found.systems[name].values[measure] for name in (whole, cut[1])]
        np.testing.assert_array_equal(*values)
    task = RetrievalTask.from_set(retrieval_set(pictures), "test")
    space = Space(Encoder(*tiny), task)
    queries, documents = (unit(one[:, :3]) for one in (space.queries, space.documents))
    np.testing.assert_allclose(space.system(3).scores(BOTH, np.arange(2)), queries[:2] @ documents.T, atol=1e-6)
    for wrong in (0, width + 1):
        with pytest.raises(ValueError, match=f"truncate_dim.*{width}.*{wrong}"):
            space.system(wrong)


def test_evaluation_of_a_model(tiny, pictures):
    found = evaluated(Encoder(*tiny), retrieval_set(pictures))
    assert {measure.split()[0] for measure in found.measures()} == {"text", "image", "both"}
    assert found.data["documents"] == 2 * len(TOPICS)


def test_unknown_split():
    with pytest.raises(ValueError, match="no split"):
        evaluated(TopicEncoder(), retrieval_set(), split="train")
