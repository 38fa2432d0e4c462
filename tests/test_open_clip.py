"""`OpenCLIPModel` against the models of open_clip that it wraps."""

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from transformers import AutoModel

from modeling_unimur import OpenCLIPConfig, OpenCLIPModel, UniMuRModel
from modeling_unimur.modeling_open_clip import ImageHead
from tests import tiny
from tests.rounding import assert_same_outputs, assert_same_weights

KINDS = tuple(tiny.OPEN_CLIP_CONFIGS)


@pytest.fixture(scope="module", params=KINDS)
def case(request, tmp_path_factory):
    """A kind, open_clip's own model, its wrapper, and the folder that the wrapper was saved in."""
    work = tmp_path_factory.mktemp(request.param)
    plain = tiny.plain_open_clip(request.param, work / "tower")
    wrapped = OpenCLIPModel.from_open_clip(plain, tiny.OPEN_CLIP_CONFIGS[request.param])
    wrapped.save_pretrained(work / "saved")
    return request.param, plain, wrapped, work / "saved"


@pytest.fixture(scope="module")
def pixels():
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def tokens():
    """Three texts of different lengths, padded to open_clip's fixed length by its own padding, 0 or 2."""

    def make(pad: int, length: int = 16) -> torch.Tensor:
        rows = torch.full((3, length), pad)
        for row, words in enumerate(([7, 8, 9, 399], [5, 399], [17, 4, 30, 90, 12, 300, 399])):
            rows[row, : len(words)] = torch.tensor(words)
        return rows

    return make


def pad_of(kind: str) -> int:
    return 2 if kind == "timm_hf" else 0


@torch.no_grad()
def test_wrapper_computes_what_open_clip_computes(case, pixels, tokens):
    kind, plain, wrapped, folder = case
    texts = tokens(pad_of(kind))
    images_expected, texts_expected = plain.encode_image(pixels), plain.encode_text(texts)
    assert (images_expected[0] - images_expected[1]).abs().max() > 1e-3
    assert (texts_expected[0] - texts_expected[1]).abs().max() > 1e-3
    for model in (wrapped, OpenCLIPModel.from_pretrained(folder), AutoModel.from_pretrained(folder)):
        assert type(model) is OpenCLIPModel
        images = model.get_image_features(pixels)
        torch.testing.assert_close(images.pooler_output, images_expected, atol=1e-6, rtol=1e-5)
        pooled = model.pool_image(pixels)
        torch.testing.assert_close(model.project_image(pooled), images_expected, atol=1e-6, rtol=1e-5)
        assert pooled.shape[1] == (model.config.vision_width or model.config.projection_dim)
        torch.testing.assert_close(model.get_text_features(texts).pooler_output, texts_expected, atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_padding_of_another_tokenizer_makes_no_difference(case, tokens):
    kind, plain, wrapped, _ = case
    expected = plain.encode_text(tokens(pad_of(kind)))
    short = tokens(3, length=9)  # another padding token, and a shorter batch
    found = wrapped.get_text_features(short, attention_mask=(short != 3).long()).pooler_output
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_forward_is_open_clips(case, pixels, tokens):
    kind, plain, wrapped, _ = case
    texts = tokens(pad_of(kind))
    images_expected, texts_expected, scale = plain(pixels, texts)[:3]
    out = wrapped(pixel_values=pixels, input_ids=texts)
    torch.testing.assert_close(out.image_embeds, images_expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(out.text_embeds, texts_expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(out.logit_scale, scale)
    logits, rows = scale * images_expected @ texts_expected.T, torch.arange(3)
    torch.testing.assert_close(out.loss, (F.cross_entropy(logits, rows) + F.cross_entropy(logits.T, rows)) / 2)
    cached = wrapped(
        pooled_features=wrapped.pool_image(pixels),
        text_features=wrapped.get_text_features(texts).pooler_output,
    )
    torch.testing.assert_close(cached.loss, out.loss)


def test_causal_mask_survives_loading(case):
    kind, plain, _, folder = case
    if kind == "timm_hf":
        names = {name for name, _ in plain.named_buffers()} - set(plain.state_dict())
    else:
        names = {"attn_mask" if kind == "clip" else "text.attn_mask"}
    assert names
    loaded = dict(OpenCLIPModel.from_pretrained(folder).model.named_buffers())
    for name in names:
        assert torch.equal(loaded[name], dict(plain.named_buffers())[name]), name
    if kind != "timm_hf":
        assert loaded[names.pop()][0, 1] == float("-inf")


def test_a_text_reads_only_backwards(tmp_path, tokens):
    folder = tiny.open_clip_folder(tmp_path / "model", "custom")
    model, texts = OpenCLIPModel.from_pretrained(folder), tokens(0)
    later = texts.clone()
    later[:, 8] = 200
    with torch.no_grad():
        states = [model.model.text.transformer, model.model.text.token_embedding]
        before, after = (
            states[0](states[1](ids) + model.model.text.positional_embedding, attn_mask=model.model.text.attn_mask)
            for ids in (texts, later)
        )
    assert_same_outputs(after[:, :8], before[:, :8])
    assert (after[:, 8] - before[:, 8]).abs().max() > 1e-3


def test_a_missing_tensor_fails_loudly(case, tmp_path):
    folder = case[3]
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    tensors = load_file(broken / "model.safetensors")
    name = next(key for key in tensors if "transformer" in key and key.endswith("weight"))
    tensors[f"{name}_renamed"] = tensors.pop(name)
    (broken / "model.safetensors").unlink()
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=re.escape(name)):
        OpenCLIPModel.from_pretrained(broken)


def test_config_asks_no_hub_and_names_no_folder(case):
    kind, _, wrapped, folder = case
    text = (folder / "config.json").read_text(encoding="utf-8")
    assert str(folder.parent) not in text
    config = json.loads(text)
    assert config["auto_map"]["AutoModel"] == "modeling_open_clip.OpenCLIPModel"
    if kind == "timm_hf":
        assert config["model_cfg"]["text_cfg"]["hf_model_pretrained"] is False
        assert config["text_tower_config"]["model_type"] == "bert"
    assert OpenCLIPConfig.from_pretrained(folder).to_dict()["model_cfg"] == wrapped.config.model_cfg


@pytest.mark.parametrize("kind", KINDS)
def test_unimur_on_open_clip(make_model, tmp_path, pictures, kind):
    model, processor = make_model(clip=tiny.open_clip_folder(tmp_path / "clip", kind))
    batch = processor.process_context([pictures[0], "a cat slept on my keyboard"])
    model.save_pretrained(tmp_path / "full")
    again = UniMuRModel.from_pretrained(tmp_path / "full")
    assert_same_weights(again.state_dict(), model.state_dict())
    with torch.no_grad():
        for side in (
            lambda m: m.get_multimodal_features(**batch),
            lambda m: m.get_image_features(**processor.process_images(pictures)),
            lambda m: m.get_text_features(**processor.process_texts(["a cat", "she plays guitar"])),
        ):
            assert_same_outputs(side(again).pooler_output, side(model).pooler_output)
        pooled, projected = model.encode_images(processor.process_images(pictures)["pixel_values"])
    assert (pooled.shape[1], projected.shape[1]) == (model.config.pooled_width, model.config.joint_width)
    assert not any(p.requires_grad for p in again.clip.parameters())


def test_ready_model_needs_its_configuration(tmp_path):
    with pytest.raises(ValueError, match="model_cfg"):
        OpenCLIPModel.from_open_clip(tiny.plain_open_clip("clip", tmp_path))


def test_hugging_face_tower_needs_its_configuration():
    with pytest.raises(ValueError, match=r"'acme/bert'.*text_tower_config"):
        OpenCLIPConfig(model_cfg=tiny.OPEN_CLIP_CONFIGS["timm_hf"])


def test_a_text_longer_than_the_tower_reads(case):
    kind, _, wrapped, _ = case
    if kind == "timm_hf":
        assert wrapped.config.context_length == 48
        return
    with pytest.raises(ValueError, match=r"17 tokens.*16"):
        wrapped.get_text_features(torch.ones(1, 17, dtype=torch.long))


OLD_HEAD = {"hidden_features": 24, "dropout": 0.1, "classes": 5}
GATED_HEAD = {**OLD_HEAD, "zero_shot_temperature": 2.0, "gate_rank": 4}


def filled_head(arguments: dict) -> ImageHead:
    """A head whose tensors are all drawn, with a gate that is neither open nor closed."""
    head = ImageHead(16, 8, **arguments).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in head.state_dict().items():
            if not name.endswith("threshold"):
                tensor.copy_(torch.rand(tensor.shape, generator=generator))
        if head.gate is not None:
            head.gate.threshold.copy_(head.gate.distance(torch.rand(9, 16, generator=generator)).mean())
    return head


def pooled_features() -> torch.Tensor:
    return torch.rand(6, 16, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_old_form_of_the_head_is_the_sum_of_layers_and_classes():
    head, x = filled_head(OLD_HEAD), pooled_features()
    assert set(head.state_dict()) == {
        *("norm.weight", "norm.bias", "fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"),
        *("classifier.weight", "classifier.bias", "class_vectors", "class_scale", "class_weight"),
    }
    seen = F.softmax(head.class_scale * head.classifier(x), dim=-1) @ head.class_vectors
    torch.testing.assert_close(head(x), head.fc2(F.gelu(head.fc1(head.norm(x)))) + head.class_weight * seen)


@torch.no_grad()
def test_gated_head_lies_between_the_trained_and_the_zero_shot_vector():
    head, x = filled_head(GATED_HEAD), pooled_features()
    old = ImageHead(16, 8, **OLD_HEAD).eval()
    old.load_state_dict({name: tensor for name, tensor in head.state_dict().items() if name in old.state_dict()})
    gate = head.gate(x)
    assert ((gate > 0.01) & (gate < 0.99)).any()
    zero_shot = F.normalize(F.softmax(head.classifier(x) / 2, dim=-1) @ head.zero_shot_vectors, dim=-1)
    expected = gate * old(x) + (1 - gate) * zero_shot * old(x).norm(dim=-1, keepdim=True)
    torch.testing.assert_close(head(x), expected)
    head.gate.threshold.fill_(1e4)
    torch.testing.assert_close(head(x), old(x), atol=1e-5, rtol=1e-5)
    head.gate.threshold.fill_(1e-4)
    torch.testing.assert_close(F.normalize(head(x), dim=-1), zero_shot)


@torch.no_grad()
@pytest.mark.parametrize("arguments", [OLD_HEAD, GATED_HEAD], ids=("old", "gated"))
def test_either_form_of_the_head_is_saved_and_loaded(tmp_path, arguments):
    config = OpenCLIPModel.from_pretrained(tiny.open_clip_folder(tmp_path / "plain", "timm_hf")).config
    config.picture_head = arguments
    model = OpenCLIPModel(config).eval()
    for name, tensor in model.model.visual.head.state_dict().items():
        tensor.copy_(torch.rand(tensor.shape, generator=torch.Generator().manual_seed(len(name))))
    model.save_pretrained(tmp_path / "saved")
    again = OpenCLIPModel.from_pretrained(tmp_path / "saved")
    assert_same_weights(again.state_dict(), model.state_dict())
    assert again.config.picture_head == arguments
    x = torch.rand(4, config.vision_width)
    assert_same_outputs(again.project_image(x), model.project_image(x))


@pytest.mark.parametrize("arguments", [{"classes": 0}, {"zero_shot_temperature": 0.0}])
def test_zero_shot_vectors_need_classes_and_a_temperature(arguments):
    with pytest.raises(ValueError, match="zero_shot_temperature"):
        ImageHead(16, 8, **{**GATED_HEAD, **arguments})
