"""The model: what [RET] reads, what a picture changes, what trains, what it costs."""

import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM, CLIPConfig

from modeling_unimur import UniMuRConfig, UniMuRModel
from modeling_unimur.prefix_cache import FrozenDecoder
from modeling_unimur.training.collators import caption_inputs
from tests import tiny

FAMILIES = (
    "llama", "opt", "gpt2", "bloom", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3", "gpt_neox",
    "stablelm", "granite", "olmo2", "smollm3",
)  # fmt: skip


@pytest.fixture(scope="module")
def family(tmp_path_factory, make_model):
    """Makes a model on a language model of a family, once for all tests."""
    made = {}

    def make(name: str, bos: bool = False, **config):
        key = (name, bos, str(config))
        if key not in made:
            folder = tiny.language_model(tmp_path_factory.mktemp(name), name, bos)
            made[key] = make_model(folder, **config)
        return made[key]

    return make


@pytest.fixture(scope="module")
def conversations(pictures):
    """Contexts of different lengths, three of them with pictures; the last two are as long as one another."""

    def words(text):
        return {"type": "text", "text": text}

    def picture(number):
        return {"type": "image", "image": pictures[number]}

    return [
        "hi",
        [
            {"role": "user", "content": [words("look "), picture(0), words(" and "), picture(1)]},
            {"role": "assistant", "content": "what a beautiful morning it is, no, but the birthday cake was good"},
        ],
        pictures[2],
        "do you have a picture of the lighthouse, and of the red balloon over the town? 0123456789",
        [{"role": "user", "content": [words("a cat slept on my keyboard"), picture(3)]}],
        [{"role": "user", "content": [words("a cat slept on my keyboard"), picture(1)]}],
    ]


def unify(model, batch, **changes) -> torch.Tensor:
    with torch.no_grad():
        return model.get_multimodal_features(**{**batch, **changes}).pooler_output


def padded_right(batch) -> dict:
    """The same rows with their padding on the other side."""
    order = torch.argsort(batch["attention_mask"], dim=1, descending=True, stable=True)
    return {
        **batch,
        "input_ids": batch["input_ids"].gather(1, order),
        "attention_mask": batch["attention_mask"].gather(1, order),
    }


def by_hand(model, processor, conversation) -> torch.Tensor:
    """The unified embedding of one context by the language model's public interface alone."""
    batch, heads, config = processor.process_context(conversation), model.heads, model.config
    vectors, ids = [], batch["input_ids"][0].tolist()
    pictures = iter(())
    if "pixel_values" in batch:
        pooled = model.clip.vision_model(batch["pixel_values"]).pooler_output
        pictures = iter(heads.visual_map(pooled).reshape(-1, config.language_width))
    for token in ids:
        if token == config.image_token_id:
            vectors.append(next(pictures))
        elif token in config.ret_token_ids:
            vectors.append(heads.ret_embedding[config.ret_token_ids.index(token)])
        else:
            vectors.append(model.get_input_embeddings()(torch.tensor(token)))
    assert list(pictures) == []
    out = model.language_model(inputs_embeds=torch.stack(vectors)[None], output_hidden_states=True)
    states = [out.hidden_states[layer][0, -config.num_ret_tokens :] for layer in config.ret_layers]
    maps = zip(heads.readout_maps, states, strict=True)
    return F.normalize(sum(layer(state) for layer, state in maps).mean(dim=0), dim=-1)


# -- the position that is read --------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", FAMILIES)
def test_ret_is_read_at_its_own_position(family, conversations, name):
    model, processor = family(name)
    batch = processor.process_context(conversations)
    together = unify(model, batch)
    assert batch["attention_mask"].sum(dim=1).min() < 4  # some rows are mostly padding
    torch.testing.assert_close(together.norm(dim=-1), torch.ones(6))
    cosines = together @ together.T
    assert cosines.fill_diagonal_(0).max() < 0.9999  # six contexts, six vectors
    torch.testing.assert_close(unify(model, padded_right(batch)), together, atol=1e-5, rtol=0)
    for row, conversation in enumerate(conversations):
        alone = unify(model, processor.process_context(conversation))[0]
        torch.testing.assert_close(alone, together[row], atol=1e-5, rtol=0)
        with torch.no_grad():
            torch.testing.assert_close(alone, by_hand(model, processor, conversation), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["llama", "opt", "gpt2"])
def test_ret_with_a_start_token(family, conversations, name):
    model, processor = family(name, bos=True)
    batch = processor.process_context(conversations)
    first = batch["attention_mask"].argmax(dim=1, keepdim=True)
    assert (batch["input_ids"].gather(1, first) == 0).all()
    together = unify(model, batch)
    torch.testing.assert_close(unify(model, padded_right(batch)), together, atol=1e-5, rtol=0)
    for row, conversation in enumerate(conversations):
        with torch.no_grad():
            torch.testing.assert_close(by_hand(model, processor, conversation), together[row], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("of_processor", "of_config"),
    [
        ({"readout_prompt": " the picture that fits:"}, {}),
        ({"num_ret_tokens": 3}, {}),
        ({"num_visual_tokens": 4}, {}),
        ({}, {"ret_layers": [1, -1]}),
        ({}, {"ret_layers": [0]}),
        ({"readout_prompt": " means", "num_ret_tokens": 2, "num_visual_tokens": 2}, {"ret_layers": [-2, -1]}),
    ],
    ids=["prompt", "three [RET]", "four visual tokens", "two layers", "the input layer", "all of it"],
)
def test_readout_variants_are_what_they_say(make_model, conversations, of_processor, of_config):
    model, processor = make_model(processor=of_processor, **of_config)
    batch = processor.process_context(conversations)
    together = unify(model, batch)
    pictures = (batch["input_ids"] == processor.image_token_id).sum(dim=1)
    assert pictures.tolist() == [count * processor.num_visual_tokens for count in (0, 2, 1, 0, 1, 1)]
    prompt = processor.tokenizer(of_processor.get("readout_prompt", ""), add_special_tokens=False)["input_ids"]
    suffix = [token for token in prompt if token not in processor.ret_token_ids] + processor.ret_token_ids
    assert all(row[-len(suffix) :] == suffix for row in batch["input_ids"].tolist())
    torch.testing.assert_close(unify(model, padded_right(batch)), together, atol=1e-5, rtol=0)
    for row, conversation in enumerate(conversations):
        with torch.no_grad():
            torch.testing.assert_close(by_hand(model, processor, conversation), together[row], atol=1e-5, rtol=0)


def test_projected_pictures_as_inputs(make_model, conversations, pictures):
    model, processor = make_model(visual_feature="projected")
    batch = processor.process_context(conversations)
    with torch.no_grad():
        features = model.clip.get_image_features(batch["pixel_values"]).pooler_output
    assert model.heads.visual_map.in_features == features.shape[1] == 24
    ready = unify(model, batch, pixel_values=None, visual_features=features)
    torch.testing.assert_close(ready, unify(model, batch), atol=1e-6, rtol=0)


def test_a_context_without_ret_is_refused(pair):
    model, processor = pair
    batch = processor.process_prompt(["hello there", "hi"])
    with pytest.raises(ValueError, match=r"Context 0 .*\[RET\]"):
        model.get_multimodal_features(**batch)
    batch = processor.process_context(["hello there", "hi"])
    batch["input_ids"][1, -1] = 7
    with pytest.raises(ValueError, match="Context 1"):
        model.get_multimodal_features(**batch)


def test_pictures_and_places_must_agree(pair, conversations):
    model, processor = pair
    batch = processor.process_context(conversations[:2])
    for pixels in (None, batch["pixel_values"][:1], batch["pixel_values"].repeat(2, 1, 1, 1)):
        with pytest.raises(ValueError, match="came with"):
            model.get_multimodal_features(**{**batch, "pixel_values": pixels})


# -- the picture in the context -------------------------------------------------------------------------------------
def test_the_picture_in_the_context_changes_the_answer(make_model, pictures):
    model, processor = make_model()
    # Two flat colours, so that an untrained map has something to tell apart; its scale is that of trained ones.
    red, blue = (Image.new("RGB", (32, 32), colour) for colour in ("red", "blue"))
    with torch.no_grad():
        model.heads.visual_map.weight.mul_(30)

    def embed(picture):
        content = [{"type": "text", "text": "what is this? "}, {"type": "image", "image": picture}]
        return unify(model, processor.process_context([{"role": "user", "content": content}]))

    gallery = [Image.new("RGB", (32, 32), (step * 10, 255 - step * 10, step * 53 % 256)) for step in range(25)]
    candidates = processor.process_images([*gallery, *pictures, red, blue])
    with torch.no_grad():
        candidates = model.get_image_features(**candidates).pooler_output
    answers = [embed(picture) for picture in (red, blue)]
    torch.testing.assert_close(embed(red), answers[0], atol=1e-6, rtol=0)
    assert F.cosine_similarity(*answers).item() < 0.999  # rounding leaves more than 0.999999
    rankings = [(answer @ candidates.T)[0].argsort().tolist() for answer in answers]
    assert rankings[0] != rankings[1]


def test_two_pictures_are_read_in_their_order(make_model, pictures):
    model, processor = make_model()
    with torch.no_grad():
        model.heads.visual_map.weight.mul_(30)

    def embed(first, second):
        parts = [{"type": "image", "image": first}, {"type": "text", "text": "or"}, {"type": "image", "image": second}]
        return unify(model, processor.process_context([{"role": "user", "content": parts}]))

    assert F.cosine_similarity(embed(*pictures[:2]), embed(*pictures[1::-1])).item() < 0.9999


# -- what trains ----------------------------------------------------------------------------------------------------
def all_losses(model, processor, conversations, pictures) -> dict:
    """Inputs of every loss term."""
    images = processor.process_images([pictures[i % 4] for i in range(len(conversations))])["pixel_values"]
    texts = processor.process_texts([f"she plays guitar {i}" for i in range(len(conversations))])
    captions = caption_inputs(processor, ["a cat", "the red balloon over the town"])
    return {
        **processor.process_context(conversations),
        **captions,
        "caption_pixel_values": images[:2],
        "target_pixel_values": images,
        "target_input_ids": texts["input_ids"],
        "target_attention_mask": texts["attention_mask"],
    }


def loss_and_gradients(model, inputs) -> tuple[float, dict]:
    model.zero_grad()
    loss = model(**inputs).loss
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("which", ["words", "pictures"])
@pytest.mark.parametrize("name", ["llama", "opt", "gpt2", "bloom", "mistral", "gemma2", "gemma3_text", "phi3"])
def test_the_prefix_cache_changes_neither_loss_nor_gradient(family, conversations, pictures, name, which, monkeypatch):
    model, processor = family(name, ret_layers=[1, -1], ret_token_loss_weight=1.0)
    chosen = [c for c in conversations if isinstance(c, str) and c not in pictures]
    inputs = all_losses(model, processor, chosen if which == "words" else conversations, pictures)
    assert model.frozen_decoder.supports(), "this family has lost its fast path"
    cached, gradients = loss_and_gradients(model, inputs)
    monkeypatch.setattr(FrozenDecoder, "supports", lambda *_: False)
    plain, expected = loss_and_gradients(model, inputs)
    assert cached == pytest.approx(plain, rel=1e-6)
    assert gradients.keys() == expected.keys()
    assert len(gradients) == 8
    for key, value in expected.items():
        assert (gradients[key] - value).norm() <= 1e-4 * value.norm(), key
        assert value.norm() > 0, key


def test_only_the_heads_train(make_model, conversations, pictures):
    model, processor = make_model()
    assert not model.training
    model.train()
    assert model.heads.training
    assert not model.language_model.training
    assert not any(module.training for module in model.clip.modules())
    _, gradients = loss_and_gradients(model, all_losses(model, processor, conversations, pictures))
    assert gradients.keys() == {f"heads.{name}" for name, _ in model.heads.named_parameters()}
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {n for n, _ in model.named_parameters() if n.startswith(("language_model.", "clip."))}
    assert model.eval().heads.training is False


def test_matryoshka_training_sums_the_losses_of_prefixes(make_model, conversations, pictures):
    plain, processor = make_model()
    inputs = all_losses(plain, processor, conversations, pictures)
    with torch.no_grad():
        whole = plain(**inputs)
        expected = {dim: [] for dim in (whole.multimodal_embeds.shape[1], 3)}
        rows, scale = torch.arange(len(whole.multimodal_embeds)), plain.heads.logit_scale.exp()
        for dim, terms in expected.items():
            for targets in (whole.image_embeds, whole.text_embeds):
                both = (F.normalize(one[:, :dim], dim=-1) for one in (whole.multimodal_embeds, targets))
                logits = scale * next(both) @ next(both).T
                terms.append((F.cross_entropy(logits, rows) + F.cross_entropy(logits.T, rows)) / 2)
        for dims in ([max(expected)], list(expected)):
            model, _ = make_model(matryoshka_dims=dims)
            model.load_state_dict(plain.state_dict())
            found = model(**inputs)
            for term, values in zip(
                (found.visual_matching_loss, found.textual_matching_loss), zip(*expected.values(), strict=True),
                strict=True,
            ):  # fmt: skip
                torch.testing.assert_close(term, sum(values[: len(dims)]))
            torch.testing.assert_close(found.caption_loss, whole.caption_loss)
    with pytest.raises(ValueError, match="matryoshka_dims"):
        make_model(matryoshka_dims=[10**6])


def test_loss_is_the_weighted_sum_of_its_terms(make_model, conversations, pictures):
    weights = {
        "caption_loss_weight": 0.5,
        "visual_matching_weight": 2.0,
        "textual_matching_weight": 3.0,
        "ret_token_loss_weight": 0.25,
    }
    model, processor = make_model(**weights, separate_logit_scales=True)
    with torch.no_grad():
        model.heads.text_logit_scale.fill_(1.0)
    inputs = all_losses(model, processor, conversations, pictures)
    with torch.no_grad():
        out = model(**inputs)
        terms = [out[key.replace("_weight", "").replace("_loss", "") + "_loss"] for key in weights]
        torch.testing.assert_close(out.loss, sum(w * t for w, t in zip(weights.values(), terms, strict=True)))
        u, scales = out.multimodal_embeds, (model.heads.logit_scale.exp(), model.heads.text_logit_scale.exp())
        rows = torch.arange(len(u))
        for term, targets, scale in zip(terms[1:3], (out.image_embeds, out.text_embeds), scales, strict=True):
            logits = scale * u @ targets.T
            torch.testing.assert_close(term, (F.cross_entropy(logits, rows) + F.cross_entropy(logits.T, rows)) / 2)
        torch.testing.assert_close(
            u, unify(model, {k: inputs[k] for k in ("input_ids", "attention_mask", "pixel_values")})
        )
        assert model(**inputs, return_loss=False).loss is None
        model.config.caption_loss_weight = 0
        assert model(**inputs).caption_loss is None
        ids = torch.tensor([0, 1, 2, 3, 4, 4])
        mask = torch.tensor([True] * 5 + [False])
        masked = model(**inputs, target_ids=ids, target_image_mask=mask)
        first = {key: value[:5] for key, value in inputs.items() if key.startswith(("target", "input", "attention"))}
        five = model(**first, pixel_values=inputs["pixel_values"][:-1])
        torch.testing.assert_close(masked.visual_matching_loss, five.visual_matching_loss)
        assert masked.textual_matching_loss != out.textual_matching_loss


def test_caption_loss_is_the_language_models_own(make_model, pictures):
    model, processor = make_model(processor={"num_visual_tokens": 2})
    captions = caption_inputs(processor, ["a cat", "the red balloon over the town"])
    pixels = processor.process_images(pictures[:2])["pixel_values"]
    with torch.no_grad():
        loss = model(**captions, caption_pixel_values=pixels).caption_loss
        visual = model.heads.visual_inputs(model.clip.vision_model(pixels).pooler_output).reshape(2, 2, -1)
        total, count = 0.0, 0
        for picture, caption in zip(visual, ("a cat", "the red balloon over the town"), strict=True):
            ids = torch.tensor(processor.tokenizer(caption, add_special_tokens=False)["input_ids"] + [1])
            embeds = torch.cat([picture, model.get_input_embeddings()(ids)])[None]
            logits = model.language_model(inputs_embeds=embeds).logits[0, 1:-1]
            total, count = total + F.cross_entropy(logits, ids, reduction="sum"), count + len(ids)
    torch.testing.assert_close(loss, total / count, rtol=1e-5, atol=1e-6)


def test_ret_token_loss_predicts_words_and_ret(make_model):
    model, processor = make_model(ret_token_loss_weight=1.0)
    texts, total, count = ["a cat slept on my keyboard", "hi"], 0.0, 0
    with torch.no_grad():
        loss = model(**processor.process_context(texts)).ret_token_loss
        for text in texts:
            ids = torch.tensor(processor.tokenizer(text, add_special_tokens=False)["input_ids"])
            embeds = torch.cat([model.get_input_embeddings()(ids), model.heads.ret_embedding])[None]
            out = model.language_model(inputs_embeds=embeds, output_hidden_states=True)
            ret = out.hidden_states[-1] @ model.heads.ret_embedding.T
            logits = torch.cat([out.logits, ret], dim=-1)[0, :-1]
            labels = torch.cat([ids[1:], torch.tensor([out.logits.shape[-1]])])
            total, count = total + F.cross_entropy(logits, labels, reduction="sum"), count + len(labels)
    torch.testing.assert_close(loss, total / count, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({}, 7_348_993),
        ({"num_visual_tokens": 4}, 19_944_193),
        ({"projection_dim": 256, "map_image_targets": True, "textual_matching_weight": 0}, 5_513_729),
        ({"projection_dim": 256, "map_image_targets": True, "map_text_targets": True}, 5_710_593),
    ],
    ids=["targets as they are", "four visual tokens", "FROMAGe", "both targets mapped"],
)
def test_trained_parameters_at_the_papers_size(options, count):
    text = AutoConfig.for_model(
        "opt", hidden_size=4096, word_embed_proj_dim=4096, ffn_dim=16384, num_hidden_layers=32, num_attention_heads=32
    )
    towers = {
        "text_config": {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12},
        "vision_config": {
            "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
            "patch_size": 14,
        },
    }  # fmt: skip
    config = UniMuRConfig(text_config=text, clip_config=CLIPConfig(**towers, projection_dim=768), **options)
    with torch.device("meta"):
        model = UniMuRModel(config)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == count
    assert 6_000_000_000 < sum(p.numel() for p in model.language_model.parameters()) < 7_000_000_000
    assert 400_000_000 < sum(p.numel() for p in model.clip.parameters()) < 450_000_000


def test_mapped_targets_have_the_width_they_were_given(make_model, pictures):
    model, processor = make_model(projection_dim=20, map_image_targets=True, map_text_targets=True)
    with torch.no_grad():
        images = model.get_image_features(**processor.process_images(pictures)).pooler_output
        texts = model.get_text_features(**processor.process_texts(["a cat", "no"])).pooler_output
        pooled = model.clip.vision_model(processor.process_images(pictures)["pixel_values"]).pooler_output
        expected = F.normalize(model.heads.image_target_map(pooled), dim=-1)
    assert (images.shape, texts.shape) == ((4, 20), (2, 20))
    torch.testing.assert_close(images, expected)
    assert unify(model, processor.process_context("hi")).shape == (1, 20)


def test_targets_as_they_are_are_clips_own(pair, pictures):
    model, processor = pair
    images, texts = processor.process_images(pictures), processor.process_texts(["a cat", "she plays guitar"])
    with torch.no_grad():
        out = model.clip(**images, **texts)
        torch.testing.assert_close(model.get_image_features(**images).pooler_output, out.image_embeds)
        torch.testing.assert_close(model.get_text_features(**texts).pooler_output, out.text_embeds)


def test_a_space_of_ready_embeddings(make_model):
    model, processor = make_model(clip=None, projection_dim=10)
    targets = torch.randn(2, 10)
    batch = processor.process_context(["a cat", "she plays guitar"])
    out = model(**batch, target_text_features=targets)
    out.loss.backward()
    torch.testing.assert_close(out.text_embeds, F.normalize(targets, dim=-1))
    assert model.heads.ret_embedding.grad.norm() > 0
    with pytest.raises(ValueError, match="dual encoder"):
        model.get_text_features(batch["input_ids"])


# -- text out -------------------------------------------------------------------------------------------------------
def test_generate_continues_words_as_the_language_model_does(pair):
    model, processor = pair
    options = {"max_new_tokens": 6, "do_sample": False}
    batch = processor.process_prompt(["a cat slept on my keyboard", "hi"])
    tokens = model.generate(**batch, **options)
    for row, text in enumerate(["a cat slept on my keyboard", "hi"]):
        ids = torch.tensor([processor.tokenizer(text, add_special_tokens=False)["input_ids"]])
        expected = model.language_model.generate(ids, **options)[0, ids.shape[1] :]
        assert tokens[row, : len(expected)].tolist() == expected.tolist()


def test_generate_reads_the_picture(make_model, pictures):
    model, processor = make_model()
    with torch.no_grad():
        model.heads.visual_map.weight.mul_(30)
    options = {"max_new_tokens": 6, "do_sample": False}
    together = model.generate(**processor.process_prompt(list(pictures)), **options)
    for row, picture in enumerate(pictures):
        assert model.generate(**processor.process_prompt(picture), **options)[0].tolist() == together[row].tolist()
    assert len({tuple(row) for row in together.tolist()}) > 1


def test_open_weights_are_not_touched_by_wrapping(pair, language_folder):
    model, _ = pair
    original = AutoModelForCausalLM.from_pretrained(language_folder).state_dict()
    mine = model.language_model.state_dict()
    assert mine.keys() == original.keys()
    assert all(torch.equal(mine[key], original[key]) for key in original)


def test_heads_that_rank_pictures_alone_refuse_texts(make_model):
    model, processor = make_model(
        projection_dim=8, map_image_targets=True, visual_feature="pooled", textual_matching_weight=0.0
    )
    with pytest.raises(ValueError, match="alone"):
        model.get_text_features(**processor.process_texts(["a cat"]))


@pytest.mark.parametrize("lora", [{"r": 0}, {"r": 2, "bias": "all"}, {"r": 2, "modules_to_save": ["lm_head"]}])
def test_adapters_that_would_not_be_saved_are_refused(lora):
    with pytest.raises(ValueError, match="lora"):
        UniMuRConfig(lora=lora)
