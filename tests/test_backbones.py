"""Backbones of today: every pair joins, trains its heads alone, gives the same numbers by every path, and comes back
from a file. The table in docs/backbones.md names what is tested here."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from transformers import AutoModel, GemmaTokenizer, GPT2Tokenizer, LlamaTokenizer, Qwen2Tokenizer, pipeline

from modeling_unimur import UniMuRModel, UniMuRProcessor
from modeling_unimur.prefix_cache import ChatCache, FrozenDecoder
from modeling_unimur.training.collators import caption_inputs
from tests import house, tiny
from tests.test_chat_cache import chat, plain

# Language model -> whether a chat goes on from its cache. Otherwise every turn runs whole: a sliding window keeps no
# keys and values that could be cut. `supports` is true for all: what stands before [RET] is left out of the graph.
LANGUAGE_MODELS = {
    "qwen3": True,
    "gemma3_text": False,
    "gemma2": False,
    "smollm3": True,
    "llama": True,
    "opt": True,
    "gpt2": True,
    "mistral": False,
    "mistral-full": True,
    "cohere": True,
    "granite": True,
}
TARGETS = ("clip", "siglip", "siglip2", "open_clip", "sentence-transformers", "sentence-transformers with images")
# Every language model with a CLIP, and every target with a Qwen3.
PAIRS = [(name, "clip") for name in LANGUAGE_MODELS] + [("qwen3", target) for target in TARGETS[1:]]
_OVERRIDES = {
    "qwen3": {"tie_word_embeddings": True},
    "gemma3_text": {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]},
    "gemma2": {"final_logit_softcapping": 2.0, "attn_logit_softcapping": 5.0, "sliding_window": 8},
    "mistral-full": {"sliding_window": None},
    "cohere": {"logit_scale": 0.25},
    "granite": {"logits_scaling": 4.0, "embedding_multiplier": 3.0},
}
_START = ("gemma3_text", "gemma2", "llama", "opt", "mistral", "mistral-full", "cohere")  # have a start token


def target_folder(kind: str, folder: Path) -> Path:
    """A small encoder of a kind."""
    if kind.startswith("siglip"):
        return tiny.siglip(folder, 2 if kind.endswith("2") else 1)
    if kind == "sentence-transformers with images":
        from sentence_transformers import SentenceTransformer

        SentenceTransformer(str(tiny.clip(folder / "clip")), device="cpu").save_pretrained(str(folder / "st"))
        return folder / "st"
    makers = {"clip": tiny.clip, "open_clip": tiny.open_clip_folder, "sentence-transformers": tiny.sentence_encoder}
    return makers[kind](folder)


@pytest.fixture(scope="module")
def joined(tmp_path_factory):
    """Makes a pair from its names, once."""
    made: dict = {}

    def make(language: str, target: str):
        if (language, target) not in made:
            folder, family = tmp_path_factory.mktemp("pair"), language.partition("-")[0]
            overrides = _OVERRIDES.get(language, {})
            lm = str(tiny.language_model(folder / "lm", family, bos=language in _START, **overrides))
            encoder, of_model = str(target_folder(target, folder / "target")), {}
            if target.startswith("sentence"):
                processor = UniMuRProcessor.from_backbones(lm, anchor_base_model=encoder, max_context_tokens=128)
            else:
                processor = UniMuRProcessor.from_backbones(lm, encoder, max_context_tokens=128)
                of_model = {"clip": encoder}
            torch.manual_seed(0)
            model = UniMuRModel.from_backbones(lm, processor=processor, ret_token_loss_weight=1.0, **of_model)
            made[language, target] = (model, processor)
        return made[language, target]

    return make


def takes_images(model) -> bool:
    return model.heads.visual_map is not None


def training_inputs(model, processor, pictures) -> dict:
    """A batch for every loss that the pair has, with images in contexts where it takes them."""
    shown = [chat(2, pictures), pictures[0]] if takes_images(model) else [chat(2), "the red balloon"]
    inputs = dict(processor.process_queries([*shown, "she plays guitar and sings", "no"]))
    wide = torch.Generator().manual_seed(0)
    width = model.config.joint_width
    inputs |= {"target_text_features": torch.randn(4, width, generator=wide)}
    if takes_images(model):
        inputs |= {"target_image_features": torch.randn(4, width, generator=wide)}
        inputs |= caption_inputs(processor, ["a cat", "the lighthouse"])
        features = torch.randn(2, model.config.visual_width, generator=wide)
        inputs |= {"caption_visual_features": features}
    return inputs


def loss_and_gradients(model, inputs) -> tuple[float, dict]:
    model.zero_grad()
    loss = model.train()(**inputs).loss
    loss.backward()
    model.eval()
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("language", "target"), PAIRS)
def test_a_pair_trains_its_heads_and_every_path_gives_the_same(joined, pictures, monkeypatch, language, target):
    model, processor = joined(language, target)
    inputs = training_inputs(model, processor, pictures)
    with torch.no_grad():
        expected = model(**inputs)
    assert expected.multimodal_embeds.isfinite().all()
    assert model.frozen_decoder.supports(), "this pair has lost its fast path"
    fast, gradients = loss_and_gradients(model, inputs)
    monkeypatch.setattr(FrozenDecoder, "supports", lambda *_: False)
    slow, wanted = loss_and_gradients(model, inputs)
    assert fast == pytest.approx(slow, rel=1e-5)
    assert expected.loss.item() == pytest.approx(slow, rel=1e-5)
    assert gradients.keys() == wanted.keys() == {f"heads.{name}" for name, _ in model.heads.named_parameters()}
    for name, gradient in wanted.items():
        assert gradient.norm() > 0, name
        assert (gradients[name] - gradient).norm() <= 1e-4 * gradient.norm(), name


@pytest.mark.parametrize(("language", "target"), PAIRS)
def test_a_chat_equals_the_plain_path(joined, pictures, language, target):
    pair = joined(language, target)
    cache, shown = ChatCache(*pair), pictures if takes_images(pair[0]) else ()
    assert cache.works == LANGUAGE_MODELS[language]
    for turns in range(2, 6):
        found = cache.embed(chat(turns, shown)) if cache.works else plain(pair, [chat(turns, shown)])
        torch.testing.assert_close(found, plain(pair, chat(turns, shown)), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("language", "target"), PAIRS)
@pytest.mark.parametrize("heads_only", [True, False])
def test_a_pair_comes_back_from_a_file(joined, pictures, tmp_path, language, target, heads_only):
    model, processor = joined(language, target)
    conversations = [chat(3, pictures if takes_images(model) else ()), "no"]
    expected = plain((model, processor), conversations)
    model.save_pretrained(tmp_path, heads_only=heads_only)
    processor.save_pretrained(tmp_path)
    parts = {"language_model": model.language_model, "clip": model.clip} if heads_only else {}
    parts = {name: part for name, part in parts.items() if part is not None}
    again = AutoModel.from_pretrained(tmp_path, trust_remote_code=True, **parts)
    loaded = UniMuRProcessor.from_pretrained(tmp_path)
    torch.testing.assert_close(plain((again, loaded), conversations), expected, atol=1e-6, rtol=0)
    if heads_only:
        weights = sum(p.numel() for p in model.heads.parameters())
        assert (tmp_path / "model.safetensors").stat().st_size < 4 * weights + 4096


# -- language models --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("language", LANGUAGE_MODELS)
def test_vocabulary_logits_are_the_language_models_own(joined, language):
    model, processor = joined(language, "clip")
    ids = processor.tokenizer("a cat slept on my keyboard", add_special_tokens=False, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        own = model.language_model(ids)
        found = model.get_vocabulary_logits(model.language_model.base_model(ids).last_hidden_state[0])
    torch.testing.assert_close(found, own.logits[0].float(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("language", LANGUAGE_MODELS)
def test_ret_starts_as_long_as_a_word(joined, language):
    """Gemma multiplies its input table by the root of the width; a tied output layer does not."""
    model, _ = joined(language, "clip")
    table = model.get_input_embeddings()
    words = table(torch.arange(table.num_embeddings)).detach()
    assert model.heads.ret_embedding.norm().item() == pytest.approx(words.norm(dim=1).mean().item(), rel=0.5)
    assert model.input_scale == pytest.approx(32**0.5 if language.startswith("gemma") else 1.0, rel=1e-3)
    rows = model.get_output_embeddings().weight
    with torch.no_grad():
        logits = model.get_vocabulary_logits(torch.randn(64, 32), ret=True)
    ratio = logits[:, -1].abs().mean() / logits[:, :-1].abs().mean()
    assert ratio.item() == pytest.approx(1.0, rel=0.6) or not torch.equal(rows, model.get_input_embeddings().weight)


def test_a_gemma_with_an_image_tower_of_its_own(make_model, tmp_path, pictures):
    """From 4B on a checkpoint of Gemma 3 is a model of images; its text is read, and its own tower is not."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    text = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256, "vocab_size": 400,
    }  # fmt: skip
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    vision |= {"image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_id=3)
    Gemma3ForConditionalGeneration(config).save_pretrained(tmp_path)
    tiny.tokenizer(bos=True).save_pretrained(tmp_path)
    pair = make_model(language=tmp_path)
    assert pair[0].config.language_width == 32
    inputs = training_inputs(*pair, pictures)
    fast, gradients = loss_and_gradients(pair[0], inputs)
    with torch.no_grad():
        assert pair[0](**inputs).loss.item() == pytest.approx(fast, rel=1e-5)
    assert all(name.startswith("heads.") for name in gradients)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (LlamaTokenizer, {"add_bos_token": True}), (GemmaTokenizer, {"add_bos_token": True}), (LlamaTokenizer, {}),
        (Qwen2Tokenizer, {}), (GPT2Tokenizer, {}),
    ],
)  # fmt: skip
def test_tokenizers_of_their_own_class_keep_ret_and_one_start(clip_folder, tmp_path, kind, options):
    """transformers sets the start token of some classes anew when it loads them."""
    alphabet = [*map(chr, range(32, 127)), "▁", "Ġ"]
    special = ["<unk>", "<s>", "</s>", "<pad>", "<bos>", "<eos>", "<|endoftext|>"]
    vocabulary = {token: number for number, token in enumerate([*special, *dict.fromkeys(alphabet)])}
    kind(vocab=vocabulary, merges=[], **options).save_pretrained(tmp_path / "lm")
    processor = UniMuRProcessor.from_backbones(str(tmp_path / "lm"), str(clip_folder))
    start = processor.tokenizer("")["input_ids"][:-1]
    assert len(start) == len(options)
    ids = processor.process_queries("a cat")["input_ids"][0].tolist()
    processor.save_pretrained(tmp_path / "saved")
    again = UniMuRProcessor.from_pretrained(tmp_path / "saved")
    assert again.process_queries("a cat")["input_ids"][0].tolist() == ids
    assert again.tokenizer("a cat")["input_ids"] == ids
    assert ids[-1] == processor.ret_token_ids[0]
    assert ids[: len(start)] == start


def test_a_template_that_writes_the_start_token_does_not_double_it(tmp_path, clip_folder):
    lm = str(tiny.language_model(tmp_path, bos=True))
    template = "{{ bos_token }}{% for m in messages %}{{ m['content'][0]['text'] }}{% endfor %}"
    processor = UniMuRProcessor.from_backbones(lm, str(clip_folder), chat_template=template)
    ids = processor.process_queries("a cat")["input_ids"][0].tolist()
    assert ids.count(0) == 1
    usual = UniMuRProcessor.from_backbones(lm, str(clip_folder))
    assert ids == usual.process_queries("a cat")["input_ids"][0].tolist()


# -- spaces of sentence-transformers ----------------------------------------------------------------------------------
@pytest.mark.parametrize("target", TARGETS[4:])
def test_a_space_of_sentence_transformers(joined, pictures, tmp_path, target):
    model, processor = joined("qwen3", target)
    encoder = processor.anchor_encoder
    assert model.config.embedding_width == encoder.get_embedding_dimension()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    retriever = pipeline("multimodal-retrieval", model=str(tmp_path), trust_remote_code=True)
    texts = ["a cat", "she plays guitar", "https://example.org/cat.png"]  # the last one is a text as well
    assert retriever.add(texts=texts)["texts"] == 3
    rows = torch.tensor(encoder.encode_document([{"text": t} for t in texts] if takes_images(model) else texts))
    query = retriever.embed("a cat slept here")
    scores = {hit["id"]: hit["score"] for hit in retriever("a cat slept here", top_k=3)["text"]}
    assert sorted(scores.values()) == pytest.approx(sorted((query @ F.normalize(rows, dim=1).T)[0].tolist()), abs=1e-5)
    if not takes_images(model):
        with pytest.raises(ValueError, match="reads no images"):
            retriever(pictures[0])
        assert "reads no images" in retriever.add(images=pictures[:1])["skipped"][0]["reason"]
        return
    assert retriever.add(images=pictures)["images"] == 4
    vectors = torch.tensor(encoder.encode_document([Image.open(path).convert("RGB") for path in pictures]))
    with torch.no_grad():
        visual = model.get_multimodal_features(
            **processor.process_rendered([processor.image_token]), visual_features=F.normalize(vectors[:1], dim=-1)
        ).pooler_output
    torch.testing.assert_close(retriever.embed(pictures[0]), visual, atol=1e-5, rtol=0)
    found = retriever.embed([chat(3, pictures), chat(3, pictures[1:])])
    assert not torch.allclose(found[0], found[1])


def test_images_of_a_context_are_in_the_anchor(joined, pictures, tmp_path):
    language = joined("qwen3", "clip")[0]
    processor = joined("qwen3", "sentence-transformers with images")[1]
    made = UniMuRModel.from_backbones(language.language_model, processor=processor, query_anchor="encoder")
    try:
        anchor = made.heads.query_anchor
        with torch.no_grad():
            anchor.readout_weight.zero_()
            query = made.get_multimodal_features(**processor.process_queries(pictures[0])).pooler_output
        want = processor.process_images(pictures[:1])["visual_features"]
        torch.testing.assert_close(query, want, atol=1e-5, rtol=0)
    finally:
        processor.query_anchor = "none"


@pytest.mark.parametrize(("language", "target"), PAIRS)
def test_the_heads_have_as_many_parameters_as_the_docs_say(joined, language, target):
    config = joined(language, target)[0].config
    visual, width, joint = config.visual_width, config.language_width, config.joint_width
    expected = ((visual + 1) * width if visual else 0) + (width + 1) * joint + width + 1
    assert sum(p.numel() for p in joined(language, target)[0].heads.parameters()) == expected


# -- the page ---------------------------------------------------------------------------------------------------------
def test_the_table_in_the_docs_names_every_pair():
    rows = [line.split("|") for line in (house.ROOT / "docs" / "backbones.md").read_text("utf-8").splitlines()]
    told = {(row[1].strip().strip("`"), row[2].strip().strip("`")): row for row in rows if len(row) > 5}
    for language, target in PAIRS:
        row = told[language, target]
        assert ("cache" if LANGUAGE_MODELS[language] else "whole") in row[4], (language, row[4])
        assert re.search(r"test_\w+", row[-2]), row
