"""A quantised language model: a gradient reaches [RET] through it, it stays as it was, and no release mentions it."""

import json
import sys

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM

from modeling_unimur import UniMuRModel, UniMuRProcessor
from modeling_unimur.training.arguments import RetrievalTrainingArguments
from modeling_unimur.training.callbacks import TrainingGuard
from modeling_unimur.training.collators import DualAlignmentCollator
from modeling_unimur.training.quantization import KINDS, prepare_quantised, quantization_config
from modeling_unimur.training.trainer import RetrievalTrainer
from tests import tiny
from tests.training.test_trainer import Rows

_WORKS_ON_CPU = ("int8", "nf4")


@pytest.fixture(scope="module")
def wide_folder(tmp_path_factory):
    """Wide enough for blocks of 64 weights."""
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "head_dim": 16}
    return tiny.language_model(tmp_path_factory.mktemp("wide"), **sizes)


@pytest.fixture(scope="module", params=_WORKS_ON_CPU)
def quantised(request, wide_folder, clip_folder):
    pytest.importorskip(KINDS[request.param])
    packed = quantization_config(request.param, torch.float32)
    language_model = AutoModelForCausalLM.from_pretrained(wide_folder, dtype=torch.float32, quantization_config=packed)
    prepare_quantised(language_model)
    processor = UniMuRProcessor.from_backbones(str(wide_folder), str(clip_folder), max_context_tokens=128)
    torch.manual_seed(0)
    return UniMuRModel.from_backbones(language_model, str(clip_folder), processor=processor), processor


def layer(language_model: nn.Module) -> torch.Tensor:
    return language_model.model.layers[0].mlp.up_proj.weight


def test_layers_are_packed_and_tables_are_not(quantised):
    model, _ = quantised
    weight = layer(model.language_model)
    assert type(weight) is not nn.Parameter or not weight.dtype.is_floating_point
    for module in (model.get_input_embeddings(), model.get_output_embeddings()):
        assert module.weight.dtype == torch.float32
    assert not any(p.requires_grad for p in model.language_model.parameters())


def test_gradient_is_that_of_the_unpacked_weights(quantised, wide_folder, clip_folder):
    """Against the full model it differs by the rounding of the weights alone."""
    model, processor = quantised
    full = UniMuRModel.from_backbones(str(wide_folder), str(clip_folder), processor=processor)
    full.heads.load_state_dict(model.heads.state_dict())
    collate, rows = DualAlignmentCollator(processor), Rows()
    batch = collate([rows[n] for n in range(8)])
    found = {}
    for name, each in (("packed", model), ("full", full)):
        outputs = each(**batch)
        outputs.loss.backward()
        found[name] = (outputs.loss.item(), each.heads.ret_embedding.grad.flatten().clone())
        each.zero_grad()
    assert found["packed"][0] == pytest.approx(found["full"][0], rel=0.1)
    assert torch.nn.functional.cosine_similarity(found["packed"][1], found["full"][1], dim=0) > 0.8


def packed_weight(model):
    weight = layer(model.language_model)
    return next((getattr(weight, n) for n in ("qdata", "data") if hasattr(weight, n)), weight)


def test_trains_saves_and_loads(quantised, tmp_path, wide_folder, clip_folder):
    model, processor = quantised
    model.config.heads_only = True
    args = RetrievalTrainingArguments(
        output_dir=str(tmp_path), max_steps=22, logging_steps=11, save_strategy="steps", save_steps=22,
        per_device_train_batch_size=8, learning_rate=5e-3, remove_unused_columns=False, use_cpu=True, seed=0,
    )  # fmt: skip
    trainer = RetrievalTrainer(
        model=model, args=args, train_dataset=Rows(), data_collator=DualAlignmentCollator(processor),
        processing_class=processor, callbacks=[TrainingGuard(model)],
    )  # fmt: skip
    before = packed_weight(model).clone()
    trainer.train()
    assert torch.equal(packed_weight(model), before)
    logged = [line for line in trainer.state.log_history if "loss" in line]
    assert logged[-1]["loss"] < logged[0]["loss"]
    checkpoint = tmp_path / "checkpoint-22"
    assert all(name.startswith("heads.") for name in load_file(checkpoint / "model.safetensors"))
    assert "quant" not in (checkpoint / "config.json").read_text()
    assert "quant" not in json.dumps(model.config.to_dict().get("clip_config"))
    loaded = UniMuRModel.from_pretrained(checkpoint, language_model=str(wide_folder), clip=str(clip_folder))
    for name, value in model.heads.state_dict().items():
        assert torch.equal(value, loaded.heads.state_dict()[name]), name


def test_none_is_none():
    assert quantization_config(None) is None


def test_another_word_is_told():
    with pytest.raises(ValueError, match="'int3'"):
        quantization_config("int3")


def test_a_missing_library_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao", None)
    with pytest.raises(ImportError, match=r"unimur\[quantized\]"):
        quantization_config("int8")


def test_int4_without_its_kernels_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "mslk", None)
    with pytest.raises(ImportError, match="mslk"):
        quantization_config("int4")


def test_a_kernel_without_a_derivative_is_told(quantised):
    language_model = quantised[0].language_model
    prepare_quantised(language_model)
    first = language_model.model.layers[0].self_attn.q_proj
    handle = first.register_forward_pre_hook(lambda module, args: (args[0].detach() + 0 * args[0],))
    with pytest.raises(ValueError, match="derivative"):
        prepare_quantised(language_model)
    handle.remove()


def test_a_model_that_is_not_packed_is_told(wide_folder):
    with pytest.raises(ValueError, match="LlamaForCausalLM"):
        prepare_quantised(AutoModelForCausalLM.from_pretrained(wide_folder))
