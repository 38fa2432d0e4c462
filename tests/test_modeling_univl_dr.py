"""UniVL-DR's model and processor: fusion, loss, files."""

import json
import math

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoProcessor

from modeling_unimur import UniVLDRConfig, UniVLDRModel, UniVLDRProcessor
from modeling_unimur.modeling_univl_dr import candidate_losses
from tests import tiny
from tests.rounding import assert_same_outputs, assert_same_weights

TEXTS = ["she plays guitar", "the red balloon over the town"]
CAPTIONS = ["a cat slept", "what a beautiful morning", "do you have a picture"]


@pytest.fixture(scope="module")
def processor(clip_folder):
    return UniVLDRProcessor.from_backbones(str(clip_folder))


@pytest.fixture(scope="module")
def make(clip_folder):
    return lambda **config: UniVLDRModel.from_backbones(str(clip_folder), **config)


@pytest.fixture(scope="module")
def model(make):
    """Read only."""
    return make()


def unit(vectors):
    return torch.nn.functional.normalize(vectors, dim=-1)


@pytest.fixture(scope="module")
def parts(model, processor, pictures):
    """What the dual encoder itself makes of pictures and captions, not normalised."""
    with torch.no_grad():
        images = model.clip.get_image_features(**processor.process_images(pictures[:3])).pooler_output
        captions = model.clip.get_text_features(**processor.process_texts(CAPTIONS)).pooler_output
    return images, captions


def documents(model, processor, pictures, captions=CAPTIONS):
    with torch.no_grad():
        return model.get_multimodal_features(**processor.process_documents(pictures[:3], captions)).pooler_output


# -- fusion ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, lambda i, c: unit(i + c)),
        ({"image_weight": 0.25}, lambda i, c: unit(0.25 * i + c)),
        ({"image_weight": 0.25, "learn_image_weight": True}, lambda i, c: unit(0.25 * i + c)),
        ({"fusion": "image"}, lambda i, c: unit(i)),
        ({"fusion": "caption"}, lambda i, c: unit(c)),
        ({"fusion": "concat", "image_weight": 0.5}, lambda i, c: unit(0.5 * i + c)),  # as it starts
    ],
)
def test_fusion_of_picture_and_caption(make, processor, pictures, parts, config, expected):
    model = make(**config)
    torch.testing.assert_close(documents(model, processor, pictures), expected(*parts), atol=1e-6, rtol=0)


def test_the_sum_is_of_vectors_as_they_come(parts):
    images, captions = parts
    assert (unit(images + captions) - unit(unit(images) + unit(captions))).abs().max() > 1e-3


@pytest.mark.parametrize("fusion", ["sum", "image", "caption", "concat"])
def test_a_document_without_a_caption_is_its_picture(make, processor, pictures, parts, fusion):
    model = make(fusion=fusion, image_weight=0.25)
    found = documents(model, processor, pictures, [CAPTIONS[0], "", None])
    torch.testing.assert_close(found[1:], unit(parts[0])[1:], atol=1e-6, rtol=0)
    torch.testing.assert_close(found[:1], documents(model, processor, pictures)[:1], atol=1e-6, rtol=0)


def test_a_document_without_a_picture_is_its_caption(make, processor, pictures, parts):
    batch = processor.process_documents(pictures[:3], CAPTIONS)
    for fusion in ("sum", "image", "caption", "concat"):
        with torch.no_grad():
            found = make(fusion=fusion).get_multimodal_features(**batch, image_mask=torch.tensor([True, False, True]))
        torch.testing.assert_close(found.pooler_output[1], unit(parts[1])[1], atol=1e-6, rtol=0)


def test_concat_and_weight_train(make, processor, pictures):
    for config in ({"fusion": "concat"}, {"learn_image_weight": True}):
        model = make(**config)
        batch = processor.process_documents(pictures[:3], CAPTIONS)
        queries = processor.process_queries(["cat", "dog", "hi"])
        loss = model(
            **queries,
            caption_input_ids=batch["input_ids"],
            caption_attention_mask=batch["attention_mask"],
            pixel_values=batch["pixel_values"],
        ).loss
        loss.backward()
        assert all(weight.grad.abs().sum() > 0 for weight in model.fusion.parameters())
        assert model.clip.vision_model.embeddings.patch_embedding.weight.grad.abs().sum() > 0
        assert model.clip.logit_scale.grad.abs() > 0


def test_pooled_features_of_before_give_the_same(model, processor, pictures):
    batch = processor.process_documents(pictures[:3], CAPTIONS)
    with torch.no_grad():
        pooled = model.clip.vision_model(batch.pop("pixel_values")).pooler_output
        found = model.get_multimodal_features(**batch, pooled_features=pooled).pooler_output
    torch.testing.assert_close(found, documents(model, processor, pictures), atol=1e-6, rtol=0)


# -- the loss -------------------------------------------------------------------------------------------------------
def circle(*degrees):
    """Unit vectors of the plane."""
    return torch.tensor([[math.cos(math.radians(d)), math.sin(math.radians(d))] for d in degrees])


def test_stage_two_loss_worked_out_by_hand():
    # Query 0 at 0 degrees: positive at 60 (cosine 1/2), picture negative at 90 (0), text negative at 180 (-1).
    # Query 1 at 90: positive at 90 (1), negatives at 60 (sqrt(3)/2) and 180 (0). Scale 2.
    queries, docs = circle(0, 90), circle(60, 90, 180)
    candidates = torch.ones(2, 3)
    losses = candidate_losses(queries, docs, torch.tensor(2.0), torch.tensor([0, 1]), candidates)
    e = math.exp
    by_hand = [
        -math.log(e(1) / (e(1) + e(0) + e(-2))),  # 0.3491
        -math.log(e(2) / (e(2) + e(math.sqrt(3)) + e(0))),  # 0.6420
    ]
    assert losses.tolist() == pytest.approx(by_hand, abs=1e-6)
    # Not a candidate: the document takes no part.
    candidates[0, 2] = 0
    losses = candidate_losses(queries, docs, torch.tensor(2.0), torch.tensor([0, 1]), candidates)
    assert losses[0].item() == pytest.approx(math.log(1 + e(-1)), abs=1e-6)
    assert losses[1].item() == pytest.approx(by_hand[1], abs=1e-6)


def test_a_document_of_several_queries_may_count_as_often():
    # The released stage 1 lists a positive once for every query that has it.
    queries, docs = circle(0, 10, 90), circle(60, 90)
    counts = torch.tensor([[2.0, 1.0]] * 3)
    losses = candidate_losses(queries, docs, torch.tensor(1.0), torch.tensor([0, 0, 1]), counts)
    logits = queries @ docs[[0, 0, 1]].T
    plain = torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2]), reduction="none")
    torch.testing.assert_close(losses, plain)


def test_documents_like_the_positive_are_left_out():
    queries, docs = circle(0), circle(60, 62, 180)
    losses = candidate_losses(
        queries, docs, torch.tensor(1.0), torch.tensor([0]), false_negative_threshold=math.cos(math.radians(5))
    )
    assert losses.item() == pytest.approx(math.log(1 + math.exp(-1 - 0.5)), abs=1e-6)


def test_forward_orders_texts_before_pictures(model, processor, pictures):
    batch = processor.process_documents(pictures[:3], CAPTIONS)
    texts, queries = processor.process_texts(TEXTS), processor.process_queries(["cat", "dog"])
    with torch.no_grad():
        output = model(
            **queries,
            text_input_ids=texts["input_ids"],
            text_attention_mask=texts["attention_mask"],
            caption_input_ids=batch["input_ids"],
            caption_attention_mask=batch["attention_mask"],
            pixel_values=batch["pixel_values"],
            positives=torch.tensor([1, 4]),
            candidates=torch.tensor([[0, 1, 1, 0, 0], [1, 0, 0, 0, 1]]),
        )
        expected = torch.cat([model.get_text_features(**texts).pooler_output, documents(model, processor, pictures)])
    torch.testing.assert_close(output.document_embeds, expected, atol=1e-6, rtol=0)
    scores = output.logit_scale * output.query_embeds @ expected.T
    by_hand = [
        -torch.log_softmax(scores[0, [1, 2]], dim=0)[0],
        -torch.log_softmax(scores[1, [4, 0]], dim=0)[0],
    ]
    assert output.textual_matching_loss.item() == pytest.approx(by_hand[0].item(), abs=1e-5)
    assert output.visual_matching_loss.item() == pytest.approx(by_hand[1].item(), abs=1e-5)
    assert output.loss.item() == pytest.approx(sum(map(float, by_hand)) / 2, abs=1e-5)
    assert_same_outputs(output.logit_scale, model.clip.logit_scale.exp())


def test_frozen_parts_rest_while_the_others_train(make):
    model = make()
    model.clip.vision_model.requires_grad_(False)
    model.train()
    assert not model.clip.vision_model.training
    assert model.clip.text_model.training


# -- files ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("config", [{}, {"fusion": "concat"}, {"learn_image_weight": True, "image_weight": 0.5}])
def test_saved_and_loaded_through_the_auto_classes(make, processor, pictures, tmp_path, config):
    model = make(**config)
    with torch.no_grad():
        for weight in model.fusion.parameters():
            weight.add_(0.1)
    for part in (model, processor):
        part.save_pretrained(tmp_path)
    about = json.loads((tmp_path / "config.json").read_text())
    assert about["auto_map"]["AutoModel"] == "modeling_univl_dr.UniVLDRModel"
    assert "multimodal-retrieval" in about["custom_pipelines"]
    assert str(tmp_path.parent) not in json.dumps(about)
    again, report = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert isinstance(again, UniVLDRModel)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    read = AutoProcessor.from_pretrained(tmp_path)
    assert isinstance(read, UniVLDRProcessor)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), UniVLDRConfig)
    assert_same_weights(again.state_dict(), model.state_dict())
    assert_same_outputs(documents(again, read, pictures), documents(model, processor, pictures))


@pytest.mark.parametrize("kind", ["clip", "custom", "timm_hf"])
def test_on_open_clip(tmp_path, pictures, kind):
    folder = tiny.open_clip_folder(tmp_path / "tower", kind)
    model, processor = UniVLDRModel.from_backbones(str(folder)), UniVLDRProcessor.from_backbones(str(folder))
    for part in (model, processor):
        part.save_pretrained(tmp_path / "saved")
    again = UniVLDRModel.from_pretrained(tmp_path / "saved")
    found = documents(again, processor, pictures)
    assert_same_weights(again.state_dict(), model.state_dict())
    assert_same_outputs(found, documents(model, processor, pictures))
    assert found.shape == (3, model.config.embedding_width)
    with torch.no_grad():
        pixels = processor.process_images(pictures[:3])["pixel_values"]
        images = model.clip.get_image_features(pixels)
        captions = model.clip.get_text_features(**processor.process_texts(CAPTIONS)).pooler_output
        pooled = model.encode_images(pooled_features=model.clip.pool_image(pixels))
    torch.testing.assert_close(pooled, images.pooler_output)
    torch.testing.assert_close(found, unit(images.pooler_output + captions), atol=1e-6, rtol=0)


# -- the processor --------------------------------------------------------------------------------------------------
def test_queries_in_every_form(processor):
    plain = processor.process_context("she plays guitar")["input_ids"]
    message = [{"role": "user", "content": [{"type": "text", "text": "she plays guitar"}]}]
    assert torch.equal(processor.process_context(message)["input_ids"], plain)
    assert torch.equal(processor.process_context([message, "hi"])["input_ids"][:1], plain)
    assert processor.process_context("she plays guitar", max_length=3)["input_ids"].shape == (1, 3)
    assert torch.equal(processor.process_context("she plays guitar")["input_ids"], plain)


# -- bad input ------------------------------------------------------------------------------------------------------
def test_bad_input_is_told(make, model, processor, pictures, tmp_path, language_folder):
    with pytest.raises(ValueError, match="fusion"):
        make(fusion="product")
    with pytest.raises(ValueError, match="the sum"):
        make(fusion="image", learn_image_weight=True)
    with pytest.raises(ValueError, match="2 captions"):
        model.get_multimodal_features(**processor.process_documents(pictures[:3], CAPTIONS[:2]))
    with pytest.raises(ValueError, match="are text"):
        processor.process_context(pictures[0])
    with pytest.raises(ValueError, match="Query 1"):
        processor.process_context(["hi", " "])
    with pytest.raises(ValueError, match="3 documents"):
        model(**processor.process_queries(TEXTS), pixel_values=processor.process_images(pictures[:3])["pixel_values"])
    with pytest.raises(ValueError, match="none of"):
        model.get_multimodal_features()
    with pytest.raises(ValueError, match="or both"):
        processor()
    with pytest.raises(ValueError, match="dual encoder"):
        UniVLDRModel.from_backbones(str(language_folder))
    with pytest.raises(OSError, match="dual encoder"):
        UniVLDRModel.from_backbones(str(tmp_path / "nowhere"))


@pytest.mark.parametrize("weights", [None, [1.0, 0.5]])
def test_matryoshka_training_sums_the_losses_of_prefixes(make, processor, weights):
    queries, texts = (processor.process_texts(words) for words in (["a cat", "a dog"], ["cats sleep", "dogs run"]))
    inputs = {**queries, **{f"text_{name}": value for name, value in texts.items()}}
    plain = make()(**inputs)
    width, expected = plain.query_embeds.shape[1], []
    for dim in (width, 3):
        query, document = unit(plain.query_embeds[:, :dim]), unit(plain.document_embeds[:, :dim])
        logits = plain.logit_scale * query @ document.T
        expected.append(torch.nn.functional.cross_entropy(logits, torch.arange(2)))
    torch.testing.assert_close(plain.loss, expected[0])
    torch.testing.assert_close(make(matryoshka_dims=[width])(**inputs).loss, plain.loss)
    found = make(matryoshka_dims=[width, 3], matryoshka_weights=weights)(**inputs)
    torch.testing.assert_close(found.loss, expected[0] + (weights or [1.0, 1.0])[1] * expected[1])
    torch.testing.assert_close(found.textual_matching_loss, found.loss)


@pytest.mark.parametrize(
    ("dims", "weights"),
    [([], None), ([0], None), ([10**6], None), ([3.5], None), ([3, 3], None), ([3], [1.0, 2.0]), ([3], [-1.0]),
     (None, [1.0])],
)  # fmt: skip
def test_matryoshka_dims_that_cannot_be(make, dims, weights):
    with pytest.raises(ValueError, match="matryoshka"):
        make(matryoshka_dims=dims, matryoshka_weights=weights)
