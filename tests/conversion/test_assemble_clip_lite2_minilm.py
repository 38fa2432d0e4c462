"""The committed tensors of the small dual encoder, and the vectors that its head starts from."""

import json

import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from conversion.assemble_clip_lite2_minilm import _HEAD, CARD_FOLDER, PROJECTION, _centred
from modeling_unimur.modeling_open_clip import ImageHead

HEAD = "model.visual.head."


def test_committed_configuration_is_the_assembled_one():
    assert json.loads((CARD_FOLDER / "config.json").read_text())["picture_head"] == _HEAD


def test_committed_tensors_are_those_of_the_head_with_a_fitted_gate():
    tensors = load_file(PROJECTION)
    assert all(tensor.dtype == torch.float16 and torch.isfinite(tensor).all() for tensor in tensors.values())
    head = ImageHead(1280, 384, **_HEAD)
    computed = {"classifier.weight", "classifier.bias", "zero_shot_vectors"}
    assert {name.removeprefix(HEAD) for name in tensors} == {"model.logit_scale", *head.state_dict()} - computed
    found = {name.removeprefix(HEAD): tensor.float() for name, tensor in tensors.items() if name.startswith(HEAD)}
    head.load_state_dict(found, strict=False)
    components = head.gate.components
    assert torch.allclose(components @ components.T, torch.eye(len(components)), atol=1e-2)
    assert (head.gate.precisions > 0).all()
    assert head.gate(head.gate.mean[None]) > 0.99
    noise = torch.randn(5, 1280, generator=torch.Generator().manual_seed(0))
    assert head.gate(noise).max() < 1e-2


def test_centred_vectors_rank_plain_texts_as_centred_ones():
    generator = torch.Generator().manual_seed(0)
    vectors = F.normalize(torch.randn(50, 16, generator=generator) + 1, dim=-1)
    texts, mean = F.normalize(torch.randn(9, 16, generator=generator) + 1, dim=-1), vectors.mean(0)
    found = _centred(vectors)
    assert torch.allclose(found @ mean, torch.zeros(50), atol=1e-6)
    assert torch.allclose(texts @ found.T, (texts - mean) @ found.T, atol=1e-6)
