"""The coherent reply: its formula, and what every index and every kind of answer makes of it."""

import json
import math

import numpy as np
import pytest
import torch
from transformers import pipeline

from modeling_unimur import UniMuRConfig
from modeling_unimur.index import open_index
from modeling_unimur.memory_index import DEPTH, Coherence, Hit, RetrievalIndex
from tests.hits import assert_same_answer, assert_same_hits
from tests.index.databases import DATABASES, PLACES, database
from tests.index.vectors import jittered, random_units, unit

WIDTH, MODEL = 24, "tiny@1"
# Texts and images around the same centres, so that votes change the order; more of each than vote.
TEXTS, IMAGES = (jittered(90, WIDTH, centres=12, noise=0.8, seed=seed) for seed in (1, 5))
QUERIES = torch.from_numpy(jittered(7, WIDTH, centres=12, noise=0.8, seed=9))
# FAISS' descriptions; whole vectors come back from all but the codes.
EXACT = ["memory", "Flat", "HNSW32", "IVF4,Flat", "IVF4,PQ12x4,RFlat", "RR24,Flat"]


def by_hand(query, weight=1.5, text_share=0.1, temperature=0.01, texts=TEXTS, images=IMAGES, depth=DEPTH):
    """The formula as a loop: numbers of texts and images with their new scores, and their cosines."""
    vectors = {"text": texts.astype(np.float64), "image": images.astype(np.float64)}
    query = np.asarray(query, dtype=np.float64)
    first = {}
    for kind, rows in vectors.items():
        cosines = {number: float(row @ query) for number, row in enumerate(rows)}
        first[kind] = sorted(cosines.items(), key=lambda item: -item[1])[:depth]
    found = {}
    for kind, other, strength in (("text", "image", weight * text_share), ("image", "text", weight)):
        voters = first[other][:DEPTH]
        total = sum(math.exp(score / temperature) for _, score in voters)
        found[kind] = {}
        for number, score in first[kind]:
            vote = sum(
                math.exp(voice / temperature) / total * float(vectors[other][voter] @ vectors[kind][number])
                for voter, voice in voters
            )
            found[kind][number] = score + strength * vote
    return found, {kind: dict(rows) for kind, rows in first.items()}


def ordered(scores):
    return [number for number, _ in sorted(scores.items(), key=lambda item: -item[1])]


def fill(index):
    if getattr(index, "needs_training", None) and index.needs_training("text"):
        for kind in ("text", "image"):
            index.train(kind, jittered(400, WIDTH, centres=12, noise=0.8, seed=3))
    payloads = [{"n": number, "even": number % 2 == 0} for number in range(90)]
    index.add("text", [f"t{number}" for number in range(90)], TEXTS, payloads)
    index.add("image", [f"i{number}" for number in range(90)], IMAGES, payloads)
    return index


@pytest.fixture(scope="module")
def retriever(make_model):
    return pipeline("multimodal-retrieval", **dict(zip(("model", "processor"), make_model(), strict=True)))


@pytest.fixture
def filled(retriever):
    retriever.index = fill(RetrievalIndex(WIDTH, MODEL))
    return retriever


def numbers(hits):
    return [int(hit["id"][1:]) for hit in hits]


# -- the formula ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"weight": 0.6, "text_share": 1.0, "temperature": 0.1},
        {"weight": 2.0, "text_share": 0.0, "temperature": 0.005},
    ],
)
def test_scores_are_those_of_a_plain_loop(filled, monkeypatch, settings):
    for name, value in settings.items():
        monkeypatch.setattr(filled.model.config, f"coherence_{name}", value)
    changed = 0
    for query, answer, plain in zip(
        QUERIES.numpy(), filled.rank(QUERIES, top_k=50, coherent=True), filled.rank(QUERIES, top_k=50), strict=True
    ):
        scores, cosines = by_hand(query, **settings)
        for kind in ("text", "image"):
            wanted = ordered(scores[kind])
            assert numbers(answer[kind]) == wanted
            assert [hit["score"] for hit in answer[kind]] == pytest.approx(
                [scores[kind][number] for number in wanted], abs=1e-5
            )
            assert [hit["cosine"] for hit in answer[kind]] == pytest.approx(
                [cosines[kind][number] for number in wanted], abs=1e-6
            )
            changed += wanted[:5] != numbers(plain[kind])[:5]
            assert all("cosine" not in hit for hit in plain[kind])
    assert changed


def test_candidates_beyond_those_that_vote_are_rescored_alike(filled):
    answer = filled.rank(QUERIES[:1], top_k=80, coherent=True)[0]
    scores, _ = by_hand(QUERIES[0].numpy(), depth=80)
    for kind in ("text", "image"):
        assert numbers(answer[kind]) == ordered(scores[kind])


def test_shorter_answers_are_the_beginning_of_longer_ones(filled):
    whole = filled.rank(QUERIES, top_k=50, coherent=True)
    for top_k in (1, 7):
        for short, long in zip(filled.rank(QUERIES, top_k=top_k, coherent=True), whole, strict=True):
            assert short == {kind: hits[:top_k] for kind, hits in long.items()}


def test_a_batch_is_its_queries_and_runs_agree(filled):
    once = filled.rank(QUERIES, coherent=True)
    assert filled.rank(QUERIES, coherent=True) == once
    for row, answer in enumerate(once):
        assert_same_answer(filled.rank(QUERIES[row : row + 1], coherent=True)[0], answer)


def test_a_weight_of_0_is_two_independent_rankings(filled, monkeypatch):
    monkeypatch.setattr(filled.model.config, "coherence_weight", 0.0)
    for modality in ("both", "text", "image", "joint"):
        assert filled.rank(QUERIES, modality=modality, coherent=True) == filled.rank(QUERIES, modality=modality)
    pair = filled.rank(QUERIES, modality="pair", top_k=1)[0][0]
    both = filled.rank(QUERIES, top_k=1)[0]
    assert (pair["text"], pair["image"]) == (both["text"][0], both["image"][0])


def test_equal_scores_keep_the_order_of_the_index():
    same = random_units(1, WIDTH)
    texts = [Hit(f"t{number}", 0.5, "text", vector=same[0]) for number in range(6)]
    images = [Hit(f"i{number}", 0.25, "image", vector=same[0]) for number in range(6)]
    found = Coherence().rescore(texts, images)
    assert [[hit.id for hit in hits] for hits in found] == [[f"{kind}{n}" for n in range(6)] for kind in "ti"]
    pairs = Coherence().pairs(texts, images, 8)
    assert [(text.id, image.id) for _, text, image in pairs][:7] == [
        *(("t0", f"i{n}") for n in range(6)),
        ("t1", "i0"),
    ]


# -- answers ----------------------------------------------------------------------------------------------------------
def test_one_kind_is_rescored_by_the_other(filled):
    both = filled.rank(QUERIES, coherent=True)
    for kind in ("text", "image"):
        assert filled.rank(QUERIES, modality=kind, coherent=True) == [{kind: answer[kind]} for answer in both]


def test_joint_merges_the_rescored_lists(filled):
    for joint, both in zip(
        filled.rank(QUERIES, top_k=30, modality="joint", coherent=True),
        filled.rank(QUERIES, top_k=50, coherent=True),
        strict=True,
    ):
        assert [hit["score"] for hit in joint] == sorted((hit["score"] for hit in joint), reverse=True)
        every = sorted((hit["score"] for hits in both.values() for hit in hits), reverse=True)
        assert [hit["score"] for hit in joint] == every[:30]
        assert {hit["kind"] for hit in joint} == {"text", "image"}


@pytest.mark.parametrize("coherent", [False, True])
def test_pairs(filled, coherent):
    for query, pairs in zip(
        QUERIES.numpy(), filled.rank(QUERIES, top_k=9, modality="pair", coherent=coherent), strict=True
    ):
        scores, cosines = by_hand(query)
        scores = scores if coherent else cosines
        weight = Coherence().weight
        every = {
            (text, image): first + second + weight * float(TEXTS[text].astype(np.float64) @ IMAGES[image])
            for text, first in scores["text"].items()
            for image, second in scores["image"].items()
        }
        assert [(int(p["text"]["id"][1:]), int(p["image"]["id"][1:])) for p in pairs] == ordered(every)[:9]
        assert [pair["score"] for pair in pairs] == pytest.approx(sorted(every.values(), reverse=True)[:9], abs=1e-5)
        assert all(pair.keys() == {"score", "text", "image"} for pair in pairs)
        assert all(("cosine" in pair[kind]) == coherent for pair in pairs for kind in ("text", "image"))
    assert len(filled.rank(QUERIES[:1], top_k=9999, modality="pair")[0]) == DEPTH**2


def test_the_image_threshold_is_one_of_cosines(filled):
    best = filled.rank(QUERIES[:1], modality="image")[0]["image"][0]["score"]
    for threshold, there in ((best - 1e-3, True), (best + 1e-3, False)):
        answer = filled.rank(QUERIES[:1], coherent=True, image_threshold=threshold)[0]
        assert bool(answer["image"]) is there
        assert answer["text"]


@pytest.mark.parametrize("kind", ["text", "image"])
def test_with_one_kind_alone_it_is_the_plain_call(retriever, kind):
    retriever.index = RetrievalIndex(WIDTH, MODEL)
    retriever.index.add(kind, [f"x{number}" for number in range(90)], TEXTS)
    for modality in ("both", "joint"):
        assert retriever("hi", modality=modality, coherent=True) == retriever("hi", modality=modality)
    with pytest.raises(ValueError, match="There is no " + {"text": "image", "image": "text"}[kind]):
        retriever("hi", modality="pair")
    assert retriever.rank(QUERIES[:1], modality="pair") == [[]]


def test_a_call_and_its_two_halves_agree(filled):
    dialogues = ["hi", [{"role": "user", "content": "look at that"}]]
    found = filled(dialogues, coherent=True, top_k=4)
    for one, two in zip(found, filled.rank(filled.embed(dialogues), coherent=True, top_k=4), strict=True):
        assert_same_answer(one, two)
    assert filled("hi", coherent=False) == filled("hi")


@pytest.mark.parametrize(
    ("options", "token"),
    [
        ({"coherent": 1}, "coherent"),
        ({"coherent": 0}, "coherent"),
        ({"coherent": "yes"}, "coherent"),
        ({"modality": "trio"}, "pair"),
    ],
)
def test_wrong_options(filled, options, token):
    with pytest.raises(ValueError, match=token):
        filled("hi", **options)


@pytest.mark.parametrize(
    ("name", "value"),
    [("weight", -1), ("weight", math.nan), ("text_share", -0.1), ("temperature", 0), ("temperature", "cold"),
     ("weight", True)],
)  # fmt: skip
def test_settings_are_checked(name, value):
    with pytest.raises(ValueError, match=f"coherence_{name}"):
        UniMuRConfig(**{f"coherence_{name}": value})


def test_settings_are_kept_by_the_configuration(tmp_path):
    UniMuRConfig(coherence_weight=0.5, coherence_text_share=1.0, coherence_temperature=0.1).save_pretrained(tmp_path)
    assert Coherence.of(UniMuRConfig.from_pretrained(tmp_path)) == Coherence(0.5, 1.0, 0.1)
    # A configuration that is older than they are.
    file = tmp_path / "config.json"
    old = {name: value for name, value in json.loads(file.read_text()).items() if "coherence" not in name}
    file.write_text(json.dumps(old))
    assert Coherence.of(UniMuRConfig.from_pretrained(tmp_path)) == Coherence() == Coherence.of(object())


# -- every index ------------------------------------------------------------------------------------------------------
@pytest.fixture(params=[*EXACT, *DATABASES])
def index(request, tmp_path):
    if request.param in PLACES:
        arguments = {"uri": database(request.param, tmp_path)}
    else:
        arguments = {"uri": tmp_path / "index", "index": request.param, "nprobe": 4}
        if request.param == "memory":
            del arguments["nprobe"]
    with open_index(width=WIDTH, model=MODEL, **arguments) as found:
        yield fill(found)


# Removed and replaced candidates, and filters; what is left, by number.
CASES = [
    ({}, range(90)),
    ({"where": {"even": True}}, range(0, 90, 2)),
    ({"where": {"n": {"gte": 10, "lt": 16}}}, range(10, 16)),
]


@pytest.mark.parametrize("changed", [False, True])
def test_every_index_gives_the_same_order(index, retriever, changed):
    texts, images, gone = TEXTS.copy(), IMAGES.copy(), set()
    if changed:
        gone = {3, 11, 12, 40, 88}
        for kind, letter in (("text", "t"), ("image", "i")):
            index.remove(kind, [f"{letter}{number}" for number in gone])
        images[[14, 20]] = images[[20, 14]]
        index.add("image", ["i14", "i20"], images[[14, 20]], [{"n": n, "even": True} for n in (14, 20)])
    retriever.index = index
    for options, kept in CASES:
        kept = [number for number in kept if number not in gone]
        for modality in ("both", "pair"):
            found = retriever.rank(QUERIES, top_k=5, modality=modality, coherent=True, **options)
            for query, answer in zip(QUERIES.numpy(), found, strict=True):
                scores, _ = by_hand(query, texts=texts[kept], images=images[kept])
                wanted = {kind: [kept[place] for place in ordered(scores[kind])] for kind in scores}
                if modality == "both":
                    assert {kind: numbers(hits) for kind, hits in answer.items()} == {
                        kind: rows[:5] for kind, rows in wanted.items()
                    }
                    assert all(hit["n"] == int(hit["id"][1:]) for hits in answer.values() for hit in hits)
                else:
                    assert {(p["text"]["id"][0], p["image"]["id"][0]) for p in answer} == {("t", "i")}
                    best = max(
                        scores["text"][row]
                        + scores["image"][column]
                        + Coherence().weight * float(texts[kept][row] @ images[kept][column])
                        for row in scores["text"]
                        for column in scores["image"]
                    )
                    assert answer[0]["score"] == pytest.approx(best, abs=1e-5)
    nothing = retriever.rank(QUERIES[:1], coherent=True, where={"even": "none"})
    assert nothing == [{"text": [], "image": []}]


@pytest.mark.parametrize("factory", ["IVF4,PQ12x4", "OPQ12_24,IVF4,PQ12x4", "IVF4,SQ8", "HNSW16_SQ8"])
def test_codes_give_what_they_decode_to(tmp_path, factory):
    with open_index(tmp_path / "index", WIDTH, MODEL, index=factory, nprobe=4) as index:
        fill(index)
        index.remove("text", ["t5"])
        hits = index.search(QUERIES, 80, "text", with_vectors=True)
        decoded = {hit.id: hit.vector for row in hits for hit in row}
        assert len(decoded) > 80
        for item, vector in decoded.items():
            assert vector.shape == (WIDTH,)
            cosine = float(unit(vector[None])[0] @ TEXTS[int(item[1:])])
            assert cosine > 0.75
        # The score is that of what the codes decode to.
        for query, row in zip(QUERIES.numpy(), hits, strict=True):
            for hit in row[:20]:
                assert float(query @ hit.vector) == pytest.approx(hit.score, abs=2e-2)
        with_filter = index.search(QUERIES, 5, "text", {"even": True}, with_vectors=True)
        for hit in (hit for row in with_filter for hit in row):
            np.testing.assert_allclose(hit.vector, decoded[hit.id], atol=1e-6)
        index.save()
    with open_index(tmp_path / "index", read_only=True) as again:
        for mine, theirs in zip(again.search(QUERIES, 9, "text", with_vectors=True), hits, strict=True):
            assert_same_hits(
                [{"score": hit.score, "id": hit.id} for hit in mine],
                [{"score": h.score, "id": h.id} for h in theirs[:9]],
            )
            for hit in mine:
                np.testing.assert_allclose(hit.vector, decoded[hit.id], atol=1e-6)


def test_an_index_that_cannot_undo_its_codes_says_so(tmp_path, retriever):
    with open_index(tmp_path / "index", WIDTH, MODEL, index="PCAW12,Flat") as index:
        fill(index)
        assert index.search(QUERIES, 3)
        retriever.index = index
        with pytest.raises(ValueError, match="whitening"):
            retriever.rank(QUERIES, coherent=True)


def test_vectors_come_where_they_are_asked_for(index):
    for kind, rows in (("text", TEXTS), ("image", IMAGES)):
        for hits in index.search(QUERIES, 9, kind, with_vectors=True):
            for hit in hits:
                np.testing.assert_allclose(hit.vector, rows[int(hit.id[1:])], atol=1e-5)
    assert all(hit.vector is None for hits in index.search(QUERIES, 9) for hit in hits)
    assert len(index.search(QUERIES, 20, with_vectors=True)[0]) == 20
