"""The systems that are compared, each against what it should compute."""

import sys

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import BertConfig, BertModel, pipeline

from modeling_unimur import MultimodalRetrievalPipeline
from modeling_unimur.evaluation.systems import (
    BM25,
    ClipSpace,
    ClipText,
    ClipTextAnchor,
    ClipTextLinear,
    CoherentReply,
    Gallery,
    SentenceTransformerSystem,
    UniMuR,
    words_of_dialogue,
    words_of_last_turn,
)
from modeling_unimur.evaluation.systems.coherent import coherent_scores
from modeling_unimur.memory_index import DEPTH, Coherence
from modeling_unimur.training.readout_fit import fit_ridge
from tests import tiny

TEXTS = ("a cat slept on my keyboard", "the red balloon over the town", "she plays guitar")


def says(*turns):
    """Chat messages with one text each."""
    return [{"role": "user", "content": [{"type": "text", "text": turn}]} for turn in turns]


@pytest.fixture(scope="module")
def space(pair):
    return ClipSpace(*pair)


def candidates_of(system, gallery):
    """What `scores` takes."""
    return {kind: system.encode_candidates(gallery, kind) for kind in gallery.kinds()}


@pytest.fixture
def gallery(pictures):
    return Gallery(TEXTS, ("a", "b", "c", "d"), tuple(pictures), ("cat, pet", "balloon", "guitar, music", ""))


def test_ridge_finds_a_linear_map_and_solves_the_normal_equations():
    generator = torch.Generator().manual_seed(0)
    inputs = F.normalize(torch.randn(200, 6, generator=generator), dim=-1)
    turn = torch.linalg.qr(torch.randn(6, 6, generator=generator))[0]
    targets = inputs @ turn.T
    found = fit_ridge(inputs, targets, torch.arange(200), penalties=(1e-9,))
    torch.testing.assert_close(found.weight, turn, atol=1e-5, rtol=0)
    torch.testing.assert_close(found(inputs), targets, atol=1e-5, rtol=0)
    queries = F.normalize(fit_ridge(inputs, targets, torch.arange(200))(inputs), dim=-1)
    assert ((queries @ targets.T).argmax(dim=1) == torch.arange(200)).all()

    given = fit_ridge(inputs, targets, torch.arange(200), penalties=(1.0,))
    centred = (inputs - inputs.mean(dim=0)).double().numpy()
    gram = centred.T @ centred
    wanted = np.linalg.solve(gram + gram.diagonal().mean() * np.eye(6), centred.T @ targets.double().numpy())
    np.testing.assert_allclose(given.weight.numpy(), wanted.T, atol=1e-5)


def test_ridge_chooses_a_large_penalty_where_there_is_nothing_to_learn():
    generator = torch.Generator().manual_seed(1)
    inputs = F.normalize(torch.randn(120, 40, generator=generator), dim=-1)
    targets = F.normalize(inputs + 0.3 * torch.randn(120, 40, generator=generator) / 40**0.5, dim=-1)
    assert fit_ridge(inputs, targets, torch.arange(120), offsets=inputs).penalty >= 0.1


def test_ridge_needs_something():
    with pytest.raises(ValueError, match="two targets"):
        fit_ridge(torch.ones(5, 2), torch.ones(5, 2), torch.zeros(5))


def test_words():
    messages = [
        {"role": "user", "content": [{"type": "text", "text": " look "}, {"type": "image", "image": "x.png"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "what"}, {"type": "text", "text": "a mess"}]},
        {"role": "user", "content": [{"type": "image", "image": "x.png"}]},
    ]
    assert words_of_dialogue(messages) == "look\nwhat a mess"
    assert words_of_last_turn(messages) == "what a mess"
    assert words_of_last_turn(messages[2:]) == ""


def test_bm25_goes_by_words(gallery):
    system = BM25()
    candidates = candidates_of(system, gallery)
    queries = system.encode_queries([says("hello", "who plays the guitar?"), says("nothing known")])
    texts, images = (system.scores(queries, candidates, kind) for kind in ("text", "image"))
    assert texts.shape == (2, 3)
    assert images.shape == (2, 4)
    assert texts[0].argmax() == 2
    assert images[0].argmax() == 2
    assert not texts[1].any()
    assert not images[1].any()
    assert system.weights().total > 0


def test_bm25_over_nothing_but_stop_words():
    system = BM25()
    candidates = candidates_of(system, Gallery(("the", "of it")))
    assert not system.scores(system.encode_queries([says("the cat")]), candidates, "text").any()


@pytest.mark.parametrize(
    ("library", "make", "extra"),
    [("bm25s", BM25, "hybrid"), ("sentence_transformers", lambda: SentenceTransformerSystem("x"), "sentence")],
)
def test_a_missing_library_names_the_extra(library, make, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=rf"unimur\[{extra}"):
        make()


def test_clip_space_is_the_models_own(space, pair, gallery, pictures):
    model, processor = pair
    with torch.inference_mode():
        texts = model.get_text_features(**processor.process_texts(list(TEXTS))).pooler_output
        images = model.get_image_features(**processor.process_images(pictures)).pooler_output
    torch.testing.assert_close(space.texts(TEXTS), texts, atol=1e-5, rtol=0)
    found = space.candidates(gallery)
    torch.testing.assert_close(F.normalize(found["image"], dim=-1), images, atol=1e-5, rtol=0)
    assert space.candidates(gallery) is found


def test_whole_and_last_are_added(space, gallery):
    dialogues = [says("she plays guitar", "a cat"), says("hello"), [*says("no"), {"role": "user", "content": []}]]
    whole, last = (ClipText(space, last_turn=turn).encode_queries(dialogues) for turn in (False, True))
    anchor = ClipTextAnchor(space)
    found = anchor.encode_queries(dialogues)
    torch.testing.assert_close(found, F.normalize(whole + last, dim=-1), atol=1e-6, rtol=0)
    assert anchor.weights().beyond == 0
    assert anchor.scores(found, candidates_of(anchor, gallery), "image").shape == (3, 4)


def test_of_a_long_dialogue_the_latest_words_are_kept(space):
    middle = " ".join(["balloon"] * 60)
    same_end, same_start = (
        (f"guitar {middle} cat", f"cake {middle} cat"),
        (f"cat {middle} guitar", f"cat {middle} cake"),
    )
    for latest, alike, other in ((True, same_end, same_start), (False, same_start, same_end)):
        torch.testing.assert_close(*space.texts(alike, latest=latest), atol=1e-6, rtol=0)
        first, second = space.texts(other, latest=latest)
        assert not torch.allclose(first, second, atol=1e-4)


def test_clip_text_reads_the_last_turn_or_all(space, gallery):
    whole, last = ClipText(space), ClipText(space, last_turn=True)
    dialogue = says("the red balloon", TEXTS[2])
    candidates = candidates_of(whole, gallery)
    assert last.scores(last.encode_queries([dialogue]), candidates, "text")[0].argmax() == 2
    expected = space.texts(["the red balloon\n" + TEXTS[2]])
    torch.testing.assert_close(whole.encode_queries([dialogue]), expected, atol=1e-6, rtol=0)
    assert whole.scores(expected, candidates, "image").shape == (1, 4)
    assert whole.weights().beyond == 0 < whole.weights().total


def test_the_linear_map_leaves_what_is_right_alone(space):
    system = ClipTextLinear(space, fit_ridge)
    texts = [f"{word} number {n}" for word in ("cat", "cake") for n in range(12)]
    with pytest.raises(ValueError, match="not fitted"):
        system.encode_queries([says("x")])
    system.fit([[text] for text in texts], texts)
    candidates = candidates_of(system, Gallery(tuple(texts)))
    found = system.scores(system.encode_queries([says(text) for text in texts]), candidates, "text")
    assert (found.argmax(axis=1) == np.arange(len(texts))).all()
    assert np.abs(found).max() <= 1 + 1e-5
    assert "24 dialogues" in system.sees
    assert system.weights().beyond == 4 * 24 * 25


def test_the_linear_map_learns_where_plain_text_fails(space):
    # Every dialogue leads to the next one's text: only a map can know.
    words = ["cat", "balloon", "cake", "guitar", "town", "morning", "keyboard", "birthday"]
    texts = [f"{a} {b}" for a in words for b in words]
    shown = space.texts(texts)
    turned = torch.linalg.qr(torch.randn(24, 24, generator=torch.Generator().manual_seed(0)))[0]
    found = fit_ridge(shown, shown @ turned.T, torch.arange(64), offsets=shown)
    queries = F.normalize(shown + found(shown), dim=-1)
    hits = (queries @ (shown @ turned.T).T).argmax(dim=1) == torch.arange(64)
    plain = (shown @ (shown @ turned.T).T).argmax(dim=1) == torch.arange(64)
    assert hits.float().mean() > plain.float().mean() + 0.3


def test_sentence_transformer(tmp_path, gallery):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=400, max_position_embeddings=64, pad_token_id=2, **sizes)).save_pretrained(
        tmp_path
    )
    tiny.tokenizer(eos=True).save_pretrained(tmp_path)
    system = SentenceTransformerSystem(tmp_path)
    candidates = candidates_of(system, gallery)
    queries = system.encode_queries([says(TEXTS[1])])
    scores = system.scores(queries, candidates, "text")
    assert scores[0].argmax() == 1
    assert scores[0, 1] == pytest.approx(1, abs=1e-5)
    assert system.scores(queries, candidates, "image").shape == (1, 4)
    assert system.weights().beyond == sum(4 * p.numel() for p in system.encoder.parameters())
    with pytest.raises(ValueError, match="nowhere"):
        SentenceTransformerSystem(str(tmp_path / "nowhere"))


@pytest.mark.parametrize("mapped", [False, True])
def test_unimur_scores_as_its_pipeline_does(mapped, make_model, gallery, pictures, tmp_path):
    maps = {"map_image_targets": True, "map_text_targets": True, "projection_dim": 20} if mapped else {}
    model, processor = make_model(**maps)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    retriever = pipeline("multimodal-retrieval", model=str(tmp_path), trust_remote_code=True)
    retriever.add(images=pictures, texts=list(TEXTS), image_ids=["a", "b", "c", "d"])
    picture = {"type": "image", "image": pictures[0]}
    dialogues = [says("a cat"), [{"role": "user", "content": [picture, {"type": "text", "text": "like this?"}]}]]
    system = UniMuR(ClipSpace(retriever.model, retriever.processor))
    candidates = candidates_of(system, gallery)
    queries = system.encode_queries(dialogues)
    for row, found in enumerate(retriever(dialogues, top_k=4)):
        for kind, ids in (("text", list(TEXTS)), ("image", list("abcd"))):
            scores = system.scores(queries, candidates, kind)[row]
            for hit in found[kind]:
                assert scores[ids.index(hit["id"])] == pytest.approx(hit["score"], abs=1e-5)
    heads = sum(4 * p.numel() for p in retriever.model.heads.parameters())
    language = sum(4 * p.numel() for p in retriever.model.language_model.parameters())
    assert system.weights().beyond == heads + language


def test_coherent_replies_rank_as_the_pipeline_does(make_model, gallery, pictures):
    model, processor = make_model()
    base = UniMuR(ClipSpace(model, processor))
    system = CoherentReply(base)
    assert system.name == "UniMuR, coherent reply"
    assert system.weights() == base.weights()
    candidates = candidates_of(system, gallery)
    dialogues = [says("look", "who is that"), says("good night")]
    queries = system.encode_queries(dialogues)
    retriever = MultimodalRetrievalPipeline(model=model, processor=processor)
    retriever.add(images=pictures, image_ids=list(gallery.image_ids), texts=list(TEXTS))
    names = {"text": TEXTS, "image": gallery.image_ids}
    for kind in ("text", "image"):
        scores = system.scores(queries, candidates, kind)
        for row, answer in zip(scores, retriever(dialogues, top_k=9, coherent=True), strict=True):
            assert [hit["id"] for hit in answer[kind]] == [names[kind][n] for n in np.argsort(-row)]
            assert [hit["score"] for hit in answer[kind]] == pytest.approx(sorted(row, reverse=True), abs=1e-5)
    independent = CoherentReply(base, Coherence(weight=0.0))
    np.testing.assert_array_equal(
        independent.scores(queries, candidates, "image"), base.scores(queries, candidates, "image")
    )


def test_candidates_behind_the_first_keep_their_order():
    rng = np.random.default_rng(0)
    vectors = {kind: rng.normal(size=(count, 8)) for kind, count in (("text", 70), ("image", 60))}
    scores = {kind: rng.uniform(-1, 1, len(rows)) for kind, rows in vectors.items()}
    scores["image"][:8] = -np.inf
    found = coherent_scores(Coherence(), scores, vectors)
    for kind, row in scores.items():
        before, after = np.argsort(-row, kind="stable"), np.argsort(-found[kind], kind="stable")
        assert set(before[:DEPTH]) == set(after[:DEPTH])
        assert before[DEPTH:].tolist() == after[DEPTH:].tolist()
    assert np.isneginf(found["image"][:8]).all()
    scores["image"][:] = -np.inf
    np.testing.assert_array_equal(coherent_scores(Coherence(), scores, vectors)["text"], scores["text"])


def test_a_model_without_a_dual_encoder_is_refused(make_model):
    model, processor = make_model(clip=None, projection_dim=8)
    with pytest.raises(ValueError, match="dual encoder"):
        ClipSpace(model, processor)


def test_a_gallery_needs_one_of_each():
    with pytest.raises(ValueError, match="one of each"):
        Gallery((), ("a",), ("a.png",), ())
