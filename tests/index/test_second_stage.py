"""The second stage: orders against scores computed by hand, what cannot be rescored, and the pipeline over it."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image
from sentence_transformers import CrossEncoder, MultiVectorEncoder
from sentence_transformers.base.modules import InputModule
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from modeling_unimur.index.second_stage import (
    NO_QUERY,
    NO_SCORE,
    NO_WORDS,
    UNREADABLE,
    Candidate,
    Reranker,
    candidate_of,
    open_reranker,
    order,
)
from modeling_unimur.memory_index import Hit
from tests import tiny
from tests.hits import assert_same_answer, assert_same_hits

TEXTS = ["she plays guitar", "a cat slept on my keyboard", "the red balloon", "no, but the birthday cake was good"]
QUERY = "do you have a picture of the lighthouse"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.cross_encoder(tmp_path_factory.mktemp("cross_encoder"))


@pytest.fixture(scope="module")
def by_hand(folder):
    """The score of a pair, one at a time by transformers alone."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()

    @torch.no_grad()
    def score(query, text):
        return torch.sigmoid(model(**tokenizer(query, text, return_tensors="pt")).logits[0, 0]).item()

    return score


@pytest.fixture
def reranker(folder):
    return Reranker(CrossEncoder(str(folder), device="cpu"))


def hits(texts, kind="text"):
    field = "text" if kind == "text" else "caption"
    return [Hit(f"{kind}{n}", 0.9 - 0.1 * n, kind, {field: text}) for n, text in enumerate(texts)]


# -- scores -----------------------------------------------------------------------------------------------------------
def test_hits_are_in_the_order_of_scores_computed_by_hand(reranker, by_hand):
    queries, found = [QUERY, "guitar"], [hits(TEXTS), hits(TEXTS[1:], "image")]
    for query, before, after in zip(queries, found, reranker.rerank(found, queries), strict=True):
        expected = {hit.id: by_hand(query, candidate_of(hit).words) for hit in before}
        assert [hit.id for hit in after] == sorted(expected, key=expected.get, reverse=True)
        assert {hit.id: hit.score for hit in after} == pytest.approx(expected, abs=1e-5)
        first = {hit.id: hit.score for hit in before}
        assert all(first[hit.id] == hit.first_score == hit.cosine for hit in after)
    assert len({round(score, 4) for score in expected.values()}) == 3
    assert not reranker.skipped


def test_hits_behind_top_k_stay(reranker, by_hand):
    (found,) = reranker.rerank([hits(TEXTS)], [QUERY], top_k=2)
    assert {hit.id for hit in found[:2]} == {"text0", "text1"}
    assert found[0].score == pytest.approx(max(by_hand(QUERY, text) for text in TEXTS[:2]), abs=1e-5)
    assert found[2:] == hits(TEXTS)[2:]
    assert found[2].first_score is None


def test_fused_scores_keep_their_cosine(reranker):
    before = Hit("a", 0.03, "text", {"text": "a cat"}, cosine=0.5, bm25=2.0)
    ((after,),) = reranker.rerank([[before]], [QUERY])
    assert (after.first_score, after.cosine, after.bm25) == (0.03, 0.5, 2.0)


def test_late_interaction_is_the_sum_of_the_best_products(folder, tmp_path):
    torch.manual_seed(0)
    model = MultiVectorEncoder(str(folder), device="cpu")
    queries, found = [QUERY, "guitar"], [hits(TEXTS), hits(TEXTS)]
    reranked = Reranker(model).rerank(found, queries)
    for query, after in zip(queries, reranked, strict=True):
        (asked,) = model.encode_query([query])
        expected = {}
        for hit in hits(TEXTS):
            (document,) = model.encode_document([hit.payload["text"]])
            expected[hit.id] = float((np.asarray(asked) @ np.asarray(document).T).max(axis=1).sum())
        assert [hit.id for hit in after] == sorted(expected, key=expected.get, reverse=True)
        assert {hit.id: hit.score for hit in after} == pytest.approx(expected, rel=1e-5)
    model.save_pretrained(str(tmp_path / "late"))
    again = open_reranker(tmp_path / "late").rerank(found, queries)
    assert [[hit.id for hit in row] for row in again] == [[hit.id for hit in row] for row in reranked]


def test_equal_scores_keep_the_first_order():
    assert order(np.array([0.5, np.nan, 0.7, 0.5, np.nan])) == [2, 0, 3, 1, 4]
    assert order(np.array([])) == []


# -- what cannot be rescored ------------------------------------------------------------------------------------------
def test_candidates_without_words_keep_their_order_and_are_counted(reranker):
    mixed = [
        Hit("bare", 0.9, "image", {"image": "nowhere.png"}), Hit("a", 0.8, "text", {"text": TEXTS[0]}),
        Hit("empty", 0.7, "text", {"text": " "}), Hit("b", 0.6, "image", {"caption": TEXTS[1]}),
        Hit("number", 0.5, "text", {"text": 3}),
    ]  # fmt: skip
    (found,) = reranker.rerank([mixed], [QUERY])
    assert {hit.id for hit in found[:2]} == {"a", "b"}
    assert found[2:] == [mixed[0], mixed[2], mixed[4]]
    assert reranker.skipped == {NO_WORDS: 3}


def test_queries_without_words_change_nothing(reranker):
    found = [hits(TEXTS), []]
    assert reranker.rerank(found, ["  ", ""]) == found
    assert reranker.skipped == {NO_QUERY: 4}
    assert reranker.rerank([], []) == []


def test_scores_that_are_no_numbers(reranker, monkeypatch):
    monkeypatch.setattr(reranker.model, "predict", lambda pairs, **options: np.array([np.nan, 0.5, -np.inf]))
    (found,) = reranker.rerank([hits(TEXTS[:3])], [QUERY])
    assert [hit.id for hit in found] == ["text1", "text0", "text2"]
    assert reranker.skipped == {NO_SCORE: 2}


@pytest.mark.parametrize("words", [None, ["one"]])
def test_each_query_has_words(reranker, words):
    with pytest.raises(ValueError, match="words of each query"):
        reranker.rerank([hits(TEXTS), hits(TEXTS)], words)


# -- images -----------------------------------------------------------------------------------------------------------
class Brightness(InputModule):
    """Scores an image by its mean, and a caption adds its number of letters; a text has its letters alone."""

    modalities = ("text", "image", "message", ("image", "text"))

    def preprocess(self, inputs, prompt=None, **kwargs):
        return {"values": torch.tensor([[self.value(document)] for _, document in inputs])}

    @staticmethod
    def value(document):
        parts = document if isinstance(document, dict) else {"image": document}
        light = float(np.asarray(parts["image"]).mean()) if "image" in parts else 0.0
        return light + len(parts.get("text", ""))

    def forward(self, features, **kwargs):
        return {"scores": features["values"]}

    def save(self, output_path, *args, **kwargs):
        raise NotImplementedError


def test_a_model_that_reads_images_is_shown_them(tmp_path):
    paths = []
    for name, light in (("dark", 10), ("bright", 200)):
        paths.append(tmp_path / f"{name}.png")
        Image.new("RGB", (8, 8), (light,) * 3).save(paths[-1])
    (tmp_path / "broken.png").write_bytes(b"no image")
    payloads = {
        "dark": {"image": str(paths[0])}, "bright": {"image": str(paths[1])},
        "captioned": {"image": str(paths[0]), "caption": "x" * 20},
        "broken": {"image": str(tmp_path / "broken.png")},
        "gone": {"image": str(tmp_path / "gone.png"), "caption": "y" * 5},
        "object": {"image": Image.new("RGB", (4, 4), (100,) * 3)},
    }  # fmt: skip
    found = [Hit(name, 0.5, "image", payload) for name, payload in payloads.items()]
    found.append(Hit("address", 0.5, "text", {"text": "http://127.0.0.1:1/x.png"}))  # is not fetched
    reranker = Reranker(CrossEncoder(modules=[Brightness()], device="cpu", activation_fn=torch.nn.Identity()))
    (after,) = reranker.rerank([found], ["http://127.0.0.1:1/y.png"])
    assert {hit.id: hit.score for hit in after if hit.first_score is not None} == {
        "bright": 200, "object": 100, "captioned": 30, "address": 24, "dark": 10, "gone": 5,
    }  # fmt: skip
    assert after[-1].id == "broken"
    assert reranker.skipped == {UNREADABLE: 1}


# -- by name ----------------------------------------------------------------------------------------------------------
def test_a_model_is_opened_once_by_its_folder(folder, by_hand):
    opened = open_reranker(folder)
    assert opened is open_reranker(str(folder)) is open_reranker(opened)
    (score,) = opened.scores([(QUERY, Candidate(TEXTS[0]))])
    assert score == pytest.approx(by_hand(QUERY, TEXTS[0]), abs=1e-5)


def test_models_without_scores_are_refused(clip_folder, tmp_path):
    tiny.sentence_encoder(tmp_path / "embeds")
    tiny.cross_encoder(tmp_path / "three", labels=3)
    for given, error, word in (
        (tmp_path / "nowhere", FileNotFoundError, "nowhere"),
        (tmp_path / "embeds", ValueError, "SentenceTransformer"),
        (clip_folder, ValueError, "CLIPModel"),
        (tmp_path / "three", ValueError, "3 labels"),
        (torch.nn.Linear(1, 1), ValueError, "Linear"),
    ):
        with pytest.raises(error, match=word):
            open_reranker(given)


def test_without_the_library(monkeypatch, folder):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ImportError, match=r"unimur\[sentence_transformers"):
        open_reranker(str(folder) + "/.")


# -- the pipeline -----------------------------------------------------------------------------------------------------
@pytest.fixture
def retriever(pair, pictures):
    made = pipeline("multimodal-retrieval", model=pair[0], processor=pair[1])
    made.add(images=pictures[:3], texts=TEXTS, captions=["a red balloon", None, "my keyboard"])
    return made


def chat(*turns):
    return [{"role": "user", "content": [{"type": "text", "text": turn}]} for turn in turns]


def test_the_pipeline_rescores_by_the_words_of_all_turns(retriever, folder, by_hand, pictures):
    last = {"role": "user", "content": ["guitar?", {"type": "image", "image": pictures[0]}]}
    dialogue = [*chat("who plays", "the"), last]
    plain = retriever(dialogue, top_k=4)
    found = retriever(dialogue, top_k=4, reranker=str(folder))
    scores = {text: by_hand("who plays\nthe\nguitar?", text) for text in TEXTS}
    assert [hit["text"] for hit in found["text"]] == sorted(scores, key=scores.get, reverse=True)
    first = {hit["id"]: hit["score"] for hit in plain["text"]}
    for hit in found["text"]:
        assert hit["score"] == pytest.approx(scores[hit["text"]], abs=1e-5)
        assert hit["first_score"] == pytest.approx(first[hit["id"]], abs=1e-5)
    assert_same_hits(found["image"][-1:], [hit for hit in plain["image"] if "caption" not in hit][:1])


def as_answers(found: list) -> list[dict]:
    """Answers of two lists or of one, as dictionaries."""
    return [answer if isinstance(answer, dict) else {"hits": answer} for answer in found]


@pytest.mark.parametrize("options", [{}, {"hybrid": "rrf"}, {"modality": "joint"}, {"modality": "image"}])
def test_answers_are_the_same_by_every_road(retriever, pair, folder, options):
    model = CrossEncoder(str(folder), device="cpu")
    asked = ["red", chat("my", "keyboard"), "a cat"]
    expected = as_answers(retriever(asked, reranker=model, **options))
    words = ["red", "my\nkeyboard", "a cat"]
    always = pipeline("multimodal-retrieval", model=pair[0], processor=pair[1], reranker=model)
    always.index = retriever.index
    for found in (
        retriever(iter(asked), reranker=folder, **options),
        retriever.rank(retriever.embed(asked), words=words, reranker=model, **options),
        always(asked, **options),
    ):
        for mine, theirs in zip(as_answers(list(found)), expected, strict=True):
            assert_same_answer(mine, theirs)
    plain = as_answers(retriever(asked, **options))
    for mine, theirs in zip(as_answers(always(asked, reranker=False, **options)), plain, strict=True):
        assert_same_answer(mine, theirs)
    assert plain != expected


def test_more_hits_than_are_asked_for_are_rescored(retriever, folder, by_hand):
    scores = {text: by_hand("red", text) for text in TEXTS}
    (best,) = retriever("red", top_k=1, reranker=folder, modality="text")["text"]
    assert best["text"] == max(scores, key=scores.get)
    found = retriever("red", top_k=4, reranker=folder, rerank_top_k=1, modality="text")["text"]
    assert [hit["id"] for hit in found] == [hit["id"] for hit in retriever("red", top_k=4, modality="text")["text"]]
    assert ["first_score" in hit for hit in found] == [True, False, False, False]


def test_the_threshold_of_images_is_one_of_cosines(retriever, folder):
    cosine = max(hit["score"] for hit in retriever("red")["image"])
    for change, some in ((-1e-3, True), (1e-3, False)):
        assert bool(retriever("red", reranker=folder, image_threshold=cosine + change)["image"]) is some


def test_an_object_with_one_method_is_enough(retriever):
    class Backwards:
        def rerank(self, found, words, top_k):
            assert (words, top_k) == (["hi"], 3)
            return [rows[::-1] for rows in found]

    plain = retriever("hi", top_k=4, modality="text")["text"]
    assert retriever("hi", top_k=4, modality="text", reranker=Backwards(), rerank_top_k=3)["text"] == plain[::-1]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"coherent": True}, "coherent"), ({"modality": "pair"}, "pairs"), ({"rerank_top_k": 0}, "rerank_top_k"),
        ({"reranker": 3}, "int"),
    ],
)  # fmt: skip
def test_bad_options(retriever, folder, options, word):
    with pytest.raises(ValueError, match=word):
        retriever("hi", **{"reranker": folder, **options})
    with pytest.raises(ValueError, match="words of each query"):
        retriever.rank(retriever.embed(["hi"]), reranker=folder)
