"""Anchored queries: the encoder's own vectors of a dialogue, corrected by the language model."""

from __future__ import annotations

import importlib
import json
import sys

import pytest
import torch
from torch.nn import functional as F

from modeling_unimur import MultimodalRetrievalPipeline, UniMuRConfig, UniMuRModel, UniMuRProcessor
from modeling_unimur.modeling_unimur import GATE_FEATURES
from modeling_unimur.prefix_cache import ChatCache
from tests import tiny
from tests.test_chat_cache import chat

FULL = {"query_attention": 2.0, "query_correction": "mlp", "query_correction_size": 16, "query_gate": True}


def shake(model) -> None:
    """Lets every part of the anchored query count: at their start the network and the gate do nothing."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.heads.query_anchor.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
        if model.heads.query_anchor.gate is not None:
            model.heads.query_anchor.feature_mean.fill_(0.5)
            model.heads.query_anchor.feature_spread.fill_(2.0)


@pytest.fixture(scope="module")
def anchored(make_model):
    """A model whose queries are anchored in every way, and its processor."""
    model, processor = make_model(query_anchor="encoder", **FULL)
    shake(model)
    return model, processor


def turn(*parts, role: str = "user") -> dict:
    """One message: strings are texts, pairs are images."""
    content = [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": part[0]}
        for part in parts
    ]
    return {"role": role, "content": content}


@pytest.fixture(scope="module")
def dialogues(pictures):
    """Dialogues of every kind that a text tower, a mean over images or a cosine could stumble over."""
    return {
        "one turn": [turn("hi")],
        "text": [turn("a cat slept"), turn("what a morning?", role="assistant"), turn("no")],
        "images between": [turn("look", (pictures[0],), "and", (pictures[1],)), turn("she plays guitar")],
        "image last": [turn("a cat?"), turn((pictures[2],))],
        "image only": [turn((pictures[3],))],
        "emoji": [turn("🎈🐈\u200d⬛ 東京 naïve"), turn("\ufe0f?")],
        "empty turns": [turn(""), turn("  \n"), turn("no, but the cake was good"), turn(" ")],
        "long": [turn(f"the red balloon over the town {number}?") for number in range(60)],
    }


def embed(model, processor, given, **changes) -> torch.Tensor:
    with torch.no_grad():
        return model.get_multimodal_features(**{**processor.process_queries(given), **changes}).pooler_output


def tower(model, processor, text: str) -> torch.Tensor:
    """A text's unit vector, or zeros without words."""
    if not text:
        return torch.zeros(1, model.config.joint_width)
    with torch.no_grad():
        return F.normalize(model.encode_texts(**processor.process_texts([text], keep="latest")), dim=-1)


def close(found, expected, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)


# -- the formula ------------------------------------------------------------------------------------------------------
def test_no_anchor_is_the_paper_to_the_bit(make_model, dialogues):
    torch.manual_seed(0)
    plain, processor = make_model()
    torch.manual_seed(0)
    other, _ = make_model(query_anchor="none", **FULL)
    state = other.heads.state_dict()
    assert plain.heads.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in plain.heads.state_dict().items())
    batch = processor.process_queries(list(dialogues.values()))
    assert set(batch) == {"input_ids", "attention_mask", "pixel_values"}
    with torch.no_grad():
        readout = other.get_multimodal_features(**batch)
    assert torch.equal(readout.pooler_output, readout.readout_embeds)
    assert readout.anchor_embeds is None
    assert torch.equal(embed(plain, processor, list(dialogues.values())), readout.pooler_output)


@pytest.mark.parametrize("kind", ["one turn", "text", "emoji", "long"])
def test_without_a_correction_it_is_the_encoders_own_vector(make_model, dialogues, kind):
    model, processor = make_model(query_anchor="encoder")
    with torch.no_grad():
        model.heads.query_anchor.readout_weight.zero_()
    words = [part["content"][0]["text"] for part in dialogues[kind]]
    whole, last = tower(model, processor, "\n".join(words)), tower(model, processor, words[-1])
    close(embed(model, processor, [dialogues[kind]]), F.normalize(whole + last, dim=-1))


def test_the_whole_formula(anchored, dialogues, pictures):
    model, processor = anchored
    head = model.heads.query_anchor
    for kind, images in {"images between": pictures[:2], "image only": pictures[3:], "text": []}.items():
        batch = processor.process_queries([dialogues[kind]])
        with torch.no_grad():
            found = model.get_multimodal_features(**batch)
            visual = model.encode_images(batch["pixel_values"])[0] if images else None
            u = model.get_readout_features(batch["input_ids"], batch["attention_mask"], visual)
            words = [[part["text"] for part in m["content"] if part["type"] == "text"] for m in dialogues[kind]]
            lines = [" ".join(parts) for parts in words if parts]
            whole, last = (tower(model, processor, text) for text in ("\n".join(lines), lines[-1] if lines else ""))
            image = torch.zeros_like(u)
            if images:
                image = model.get_image_features(**processor.process_images(images)).pooler_output.mean(0, True)
            attention = torch.exp(2 * (F.cosine_similarity(u, last) - F.cosine_similarity(u, whole)))
            anchor = head.whole_weight * whole + head.last_weight * attention[:, None] * last
            anchor = anchor + head.image_weight * image
            correction = head.readout_weight * u + head.correction(torch.cat([u, whole, last], dim=-1))
            tokens, turns = batch["input_ids"].shape[1], len(dialogues[kind])
            asked = sum("?" in line for line in lines) / turns
            cosines = [F.cosine_similarity(*two) for two in ((u, anchor), (whole, last), (u, whole), (u, last))]
            figures = torch.tensor([[tokens, turns]], dtype=torch.float32).log1p()
            features = torch.cat([torch.stack(cosines, dim=1), figures, torch.tensor([[asked]])], dim=1)
            assert features.shape[1] == len(GATE_FEATURES)
            gate = torch.sigmoid(head.gate((features - 0.5) / 2))
        close(found.readout_embeds, u)
        close(found.anchor_embeds, anchor)
        close(found.correction_embeds, correction)
        close(found.gate, gate)
        close(found.pooler_output, F.normalize(anchor + gate * correction, dim=-1))


def test_initial_values_leave_the_gate_open_and_the_network_silent(make_model):
    model, _ = make_model(query_anchor="encoder", **FULL)
    vectors = F.normalize(torch.randn(3, 4, model.config.joint_width), dim=-1).unbind()
    found = model.heads.query_anchor.eval()(*vectors, torch.zeros(4, model.config.joint_width), torch.ones(4, 3))
    attention = torch.exp(2 * (F.cosine_similarity(*vectors[::2]) - F.cosine_similarity(*vectors[:2])))
    close(found.anchor_embeds, vectors[1] + attention[:, None] * vectors[2])
    close(found.correction_embeds, 0.7 * vectors[0])
    assert bool(((found.gate > 0.85) & (found.gate < 0.95)).all())


def test_attention_raises_the_last_turn_where_the_readout_is_near_it(make_model):
    model, _ = make_model(query_anchor="encoder", query_attention=4.0)
    whole, last = F.normalize(torch.randn(2, 1, model.config.joint_width), dim=-1)
    zeros, statistics = torch.zeros_like(whole), torch.ones(1, 3)
    shares = []
    for readout in (whole, F.normalize(whole + last, dim=-1), last):
        found = model.heads.query_anchor.eval()(readout, whole, last, zeros, statistics)
        shares.append(float((found.anchor_embeds - whole).norm().detach()))
    assert shares[0] < 1 < shares[2]
    assert shares[1] == pytest.approx(1, abs=1e-5)


def test_dropout_is_for_training_alone(anchored, dialogues):
    model, processor = anchored
    vectors = [embed(model, processor, [dialogues["text"]]) for _ in range(2)]
    assert torch.equal(*vectors)
    model.train()
    try:
        torch.manual_seed(0)
        vectors = [embed(model, processor, [dialogues["text"]]) for _ in range(2)]
    finally:
        model.eval()
    assert not torch.allclose(*vectors)


# -- the same numbers on every road -----------------------------------------------------------------------------------
def test_a_batch_equals_its_dialogues_alone(anchored, dialogues):
    model, processor = anchored
    together = embed(model, processor, list(dialogues.values()))
    assert bool(together.isfinite().all())
    close(together.norm(dim=-1), torch.ones(len(together)))
    for row, dialogue in zip(together, dialogues.values(), strict=True):
        close(embed(model, processor, [dialogue])[0], row)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(anchored, dialogues, side):
    model, processor = anchored
    batch = dict(processor.process_queries([dialogues["text"], dialogues["image last"]]))
    expected = embed(model, processor, [dialogues["text"], dialogues["image last"]])
    pad = (3, 0) if side == "left" else (0, 3)
    for name, value in (("input_ids", processor.tokenizer.pad_token_id), ("attention_mask", 0)):
        batch[name] = F.pad(batch[name], pad, value=value)
    for name, value in (("anchor_input_ids", processor.target_tokenizer.pad_token_id), ("anchor_attention_mask", 0)):
        batch[name] = F.pad(batch[name], (0, 3), value=value)
    with torch.no_grad():
        close(model.get_multimodal_features(**batch).pooler_output, expected)


@pytest.mark.parametrize("config", [{}, {"visual_feature": "projected"}, {"map_image_targets": True}])
@pytest.mark.parametrize("given", ["derived", "passed"])
def test_cached_features_equal_the_images_and_words(make_model, dialogues, config, given):
    model, processor = make_model(query_anchor="encoder", **FULL, **config)
    shake(model)
    some = [dialogues["images between"], dialogues["text"], dialogues["image only"]]
    batch = dict(processor.process_queries(some))
    expected = embed(model, processor, some)
    pixels = batch.pop("pixel_values")
    batch["visual_features"] = model.get_visual_features(pixels)
    if given == "passed":
        ids, mask, there = (batch.pop(f"anchor_{name}") for name in ("input_ids", "attention_mask", "text_mask"))
        features = model.encode_texts(ids.flatten(0, 1), mask.flatten(0, 1)).unflatten(0, (-1, 2))
        batch["anchor_features"] = features * there[..., None]
    with torch.no_grad():
        close(model.get_multimodal_features(**batch).pooler_output, expected)


def test_every_turn_of_a_chat_equals_the_plain_path(anchored, pictures):
    cache = ChatCache(*anchored)
    assert cache.works
    for turns in range(2, 9):
        close(cache.embed(chat(turns, pictures)), embed(*anchored, [chat(turns, pictures)]))
    assert len(cache) == 1


def test_the_pipeline_takes_the_same_road(anchored, dialogues, pictures):
    model, processor = anchored
    retriever = MultimodalRetrievalPipeline(model=model, processor=processor)
    several = list(dialogues.values())
    expected = embed(model, processor, several)
    close(retriever.embed(several, batch_size=3), expected)
    close(retriever.embed(several, owners=["me"] * len(several)), expected)
    retriever.add(texts=["a cat slept", "no"], images=pictures)
    answers = [retriever(dialogue, top_k=1) for dialogue in several]
    streamed = list(retriever(iter(several), top_k=1))
    for one, other in zip(answers, streamed, strict=True):
        assert {kind: hits[0]["id"] for kind, hits in one.items()} == {k: hits[0]["id"] for k, hits in other.items()}


# -- the processor ----------------------------------------------------------------------------------------------------
def test_the_latest_words_are_kept(anchored, dialogues):
    _, processor = anchored
    ids = processor.process_queries([dialogues["long"]])["anchor_input_ids"][0, 0]
    words = "\n".join(message["content"][0]["text"] for message in dialogues["long"])
    own = processor.target_tokenizer(words, add_special_tokens=False)["input_ids"]
    assert len(own) > processor.max_target_tokens == len(ids)
    assert ids.tolist() == [*own[1 - len(ids) :], processor.target_tokenizer.eos_token_id]
    first = processor.process_texts([words])["input_ids"][0]  # candidates keep their beginning
    assert first.tolist() == [*own[: len(ids) - 1], processor.target_tokenizer.eos_token_id]


@pytest.mark.parametrize(
    ("kind", "statistics", "there"),
    [
        ("one turn", [1, 0], [True, True]),
        ("text", [3, 1 / 3], [True, True]),
        ("image last", [2, 1 / 2], [True, True]),
        ("image only", [1, 0], [False, False]),
        ("emoji", [2, 1 / 2], [True, True]),
        ("empty turns", [1, 0], [True, True]),
        ("long", [60, 1], [True, True]),
    ],
)
def test_statistics_of_turns(anchored, dialogues, kind, statistics, there):
    batch = anchored[1].process_queries([dialogues[kind]])
    close(batch["turn_statistics"], torch.tensor([statistics], dtype=torch.float32))
    assert batch["anchor_text_mask"].tolist() == [there]


def test_every_call_of_the_processor_prepares_the_same(anchored, pictures):
    _, processor = anchored
    messages = [turn("look who slept?"), turn("no", (pictures[0],))]
    expected = processor.process_queries([messages])
    calls = {
        "template": processor.apply_chat_template(messages, tokenize=True, return_dict=True),
        "call": processor(text=processor.apply_chat_template(messages), images=[pictures[0]]),
        "arrays": processor.process_queries([messages], return_tensors="np"),
        "lists": processor.process_queries([messages], return_tensors=None),
    }
    for found in calls.values():
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            close(torch.as_tensor(found[name]).to(value), value)


def test_a_prompt_for_generation_has_no_anchor(anchored):
    assert set(anchored[1].process_prompt("a cat")) == {"input_ids", "attention_mask"}
    assert anchored[0].generate(**anchored[1].process_prompt("a cat"), max_new_tokens=2).shape == (1, 2)


# -- errors -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("missing", "token"),
    [("anchor_input_ids", "process_queries"), ("turn_statistics", "process_queries")],
)
def test_a_missing_input_names_the_processor(anchored, missing, token):
    batch = {key: value for key, value in anchored[1].process_queries("a cat").items() if key != missing}
    with pytest.raises(ValueError, match=token):
        anchored[0].get_multimodal_features(**batch)
    with pytest.raises(ValueError, match=token):
        anchored[0](**batch)


def test_features_of_another_shape_are_refused(anchored):
    batch = anchored[1].process_queries("a cat")
    with pytest.raises(ValueError, match="anchor_features"):
        anchored[0].get_multimodal_features(**batch, anchor_features=torch.ones(1, 2, 5))


@pytest.mark.parametrize(
    ("config", "token"),
    [
        ({"query_anchor": "clip"}, "query_anchor"),
        ({"query_correction": "deep"}, "query_correction"),
        ({"query_attention": -1.0}, "query_attention"),
        ({"query_correction_size": 0}, "query_correction_size"),
        ({"query_correction_dropout": 1.0}, "query_correction_dropout"),
        (
            {"query_anchor": "encoder", "anchor_base_model": "a/b", "clip_config": {"model_type": "clip"}},
            "clip_config",
        ),
        (
            {
                "query_anchor": "encoder", "clip_config": {"model_type": "clip"}, "projection_dim": 256,
                "map_image_targets": True, "textual_matching_weight": 0,
            },
            "map_text_targets",
        ),
    ],
)  # fmt: skip
def test_the_configuration_is_checked(config, token):
    with pytest.raises(ValueError, match=token):
        UniMuRConfig(**config)


# -- files ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("heads_only", [True, False])
def test_a_release_comes_back(anchored, dialogues, tmp_path, language_folder, clip_folder, heads_only):
    model, processor = anchored
    several = list(dialogues.values())
    model.save_pretrained(tmp_path, heads_only=heads_only)
    processor.save_pretrained(tmp_path)
    given = {"language_model": str(language_folder), "clip": str(clip_folder)} if heads_only else {}
    loaded, again = UniMuRModel.from_pretrained(tmp_path, **given), UniMuRProcessor.from_pretrained(tmp_path)
    assert again.query_anchor == "encoder"
    state = loaded.heads.state_dict()
    for name, value in model.heads.state_dict().items():
        assert torch.equal(value, state[name]), name
    close(embed(loaded, again, several), embed(model, processor, several))


def test_a_processor_learns_the_anchor_from_the_model_beside_it(anchored, make_model, tmp_path):
    _, plain = make_model()
    plain.save_pretrained(tmp_path)
    assert UniMuRProcessor.from_pretrained(tmp_path).query_anchor == "none"
    anchored[0].config.save_pretrained(tmp_path)
    assert UniMuRProcessor.from_pretrained(tmp_path).query_anchor == "encoder"
    assert UniMuRProcessor.from_pretrained(tmp_path, query_anchor="none").query_anchor == "none"


def test_an_old_release_loads_as_the_paper(make_model, tmp_path, dialogues):
    model, processor = make_model()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    for name in ("config.json", "processor_config.json"):
        config = json.loads((tmp_path / name).read_text())
        kept = {key: value for key, value in config.items() if not key.startswith(("query_", "anchor_"))}
        assert len(kept) < len(config)
        (tmp_path / name).write_text(json.dumps(kept))
    loaded, again = UniMuRModel.from_pretrained(tmp_path), UniMuRProcessor.from_pretrained(tmp_path)
    assert loaded.config.query_anchor == again.query_anchor == "none"
    assert loaded.heads.state_dict().keys() == model.heads.state_dict().keys()
    close(embed(loaded, again, dialogues["text"]), embed(model, processor, dialogues["text"]), 1e-6)


# -- other encoders ---------------------------------------------------------------------------------------------------
class Encoder:
    """Texts to vectors that depend on nothing but the text, and a record of what was asked."""

    def __init__(self, width: int = 20):
        self.width, self.asked = width, []

    def __call__(self, texts):
        self.asked += texts
        rows = [
            torch.randn(self.width, generator=torch.Generator().manual_seed(len(t) * 999 + ord(t[0]))) for t in texts
        ]
        return torch.stack(rows)


@pytest.fixture
def ready(make_model):
    """A model on ready embeddings, and its processor with the encoder that made them."""
    model, processor = make_model(clip=None, projection_dim=20, query_anchor="encoder", **FULL)
    shake(model)
    processor.anchor_encoder = Encoder()
    return model, processor


def test_ready_embeddings_are_anchored_by_their_encoder(ready):
    model, processor = ready
    given = ["a cat slept", [turn("hi?"), turn("she plays guitar")]]
    expected = embed(model, processor, given)
    assert processor.anchor_encoder.asked == ["a cat slept", "hi?\nshe plays guitar", "she plays guitar"]
    with torch.no_grad():
        model.heads.query_anchor.readout_weight.zero_()
        for parameter in model.heads.query_anchor.correction.parameters():
            parameter.zero_()
        own = F.normalize(Encoder()(["a cat slept"]), dim=-1)
    close(embed(model, processor, "a cat slept"), own * torch.sign(model.heads.query_anchor.whole_weight))
    assert expected.shape == (2, 20)
    assert "anchor_encoder" not in processor.to_dict()
    assert processor.anchor_encoder.asked  # still there


def test_ready_embeddings_have_no_weight_that_cannot_train(ready):
    model, processor = ready
    model.get_multimodal_features(**processor.process_queries(chat(3))).pooler_output.sum().backward()
    head = dict(model.heads.query_anchor.named_parameters())
    assert "image_weight" not in head
    assert all(bool(parameter.grad.any()) for parameter in head.values())


def test_without_their_encoder_the_error_says_how_to_name_it(ready):
    model, processor = ready
    processor.anchor_encoder = None
    with pytest.raises(ValueError, match="anchor_encoder"):
        embed(model, processor, "a cat")


@pytest.mark.parametrize("kind", ["clip", "open_clip"])
def test_the_text_tower_of_a_dual_encoder_anchors_ready_embeddings(make_model, clip_folder, tmp_path, kind):
    folder = clip_folder if kind == "clip" else tiny.open_clip_folder(tmp_path / "tower", "clip")
    dual, own = make_model(clip=folder)
    width = dual.config.joint_width
    model, processor = make_model(
        clip=None, projection_dim=width, query_anchor="encoder", anchor_base_model=str(folder)
    )
    with torch.no_grad():
        model.heads.query_anchor.readout_weight.zero_()
    long = [" ".join([word, *["she plays guitar"] * 30]) for word in ("balloon", "cat")]  # the latest words are kept
    given = ["a cat slept", "no", *long, [turn("hi?"), turn("she plays guitar")]]
    expected = torch.cat([tower(dual, own, text) for text in given[:-1]])
    both = tower(dual, own, "hi?\nshe plays guitar") + tower(dual, own, "she plays guitar")
    close(embed(model, processor, given), torch.cat([expected, F.normalize(both, dim=-1)]))


@pytest.mark.parametrize("name", ["acme/moved", "no/such/folder"])
def test_an_encoder_that_is_gone_is_named(ready, name):
    model, processor = ready
    processor.anchor_encoder, processor.anchor_base_model = None, name
    with pytest.raises(ValueError, match=rf"{name}.*anchor_encoder"):
        embed(model, processor, "a cat")


def test_an_encoder_that_is_named_needs_its_library(ready, monkeypatch):
    model, processor = ready
    processor.anchor_encoder, processor.anchor_base_model = None, "acme/encoder"
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ImportError, match="sentence_transformers"):
        embed(model, processor, "a cat")


def test_without_the_package_an_encoder_is_a_callable(ready, monkeypatch):
    def missing(name, *further, found=importlib.import_module):
        if name.startswith("modeling_unimur."):
            raise ModuleNotFoundError(f"No module named {name!r}", name="modeling_unimur")
        return found(name, *further)

    model, processor = ready
    expected = embed(model, processor, "a cat")
    monkeypatch.setattr("modeling_unimur.processing_unimur.importlib.import_module", missing)
    close(embed(model, processor, "a cat"), expected)
    processor.anchor_encoder, processor.anchor_base_model = None, "acme/encoder"
    with pytest.raises(ImportError, match="pip install unimur"):
        embed(model, processor, "a cat")


def test_the_pipeline_takes_an_encoder(ready):
    model, processor = ready
    expected = embed(model, processor, ["a cat", chat(3)])
    processor.anchor_encoder = None
    retriever = MultimodalRetrievalPipeline(model=model, processor=processor, anchor_encoder=Encoder())
    close(retriever.embed(["a cat", chat(3)]), expected)
    close(retriever.embed([chat(3)], owners=["me"]), expected[1:])


@pytest.mark.parametrize("kind", sorted(tiny.OPEN_CLIP_CONFIGS))
def test_open_clip_towers_anchor_too(make_model, tmp_path, dialogues, kind):
    model, processor = make_model(clip=tiny.open_clip_folder(tmp_path / kind, kind), query_anchor="encoder", **FULL)
    shake(model)
    some = [dialogues[name] for name in ("text", "images between", "image only")]
    together = embed(model, processor, some)
    for row, dialogue in zip(together, some, strict=True):
        close(embed(model, processor, [dialogue])[0], row)
