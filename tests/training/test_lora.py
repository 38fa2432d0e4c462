"""LoRA adapters on the language model: nothing at zero, gradients, files, chats, merged and apart."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from modeling_unimur import UniMuRConfig, UniMuRModel, UniMuRProcessor
from modeling_unimur.modeling_unimur import LORA, adapter_weights
from modeling_unimur.prefix_cache import ChatCache
from modeling_unimur.releasing.clean_folder import read_heads, write_heads
from modeling_unimur.training import lora
from modeling_unimur.training.collators import caption_inputs
from modeling_unimur.training.prefix_store import PrefixStore
from modeling_unimur.training.recipes import load_recipe
from modeling_unimur.training.train_unimur import build, train
from tests import tiny
from tests.test_chat_cache import chat, plain
from tests.test_modeling_unimur import loss_and_gradients
from tests.training import folder_run

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.slow

ADAPTERS = {"r": 4, "alpha": 8, "target_modules": ["q_proj", "v_proj"]}


@pytest.fixture
def adapted(make_model):
    """A pair with adapters that do something."""
    model, processor = make_model(lora=ADAPTERS, ret_token_loss_weight=1.0)
    turn(model)
    return model, processor


def turn(model, seed: int = 0) -> None:
    """Gives the second matrices, which start at zero, values."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in adapter_weights(model.language_model).items():
            if "lora_B" in name:
                weight.copy_(0.3 * torch.randn(weight.shape, generator=generator))


def training_inputs(model, processor, pictures) -> dict:
    inputs = dict(processor.process_queries([chat(2, pictures), "she plays guitar and sings", "no"]))
    inputs |= caption_inputs(processor, ["a cat", "the lighthouse"])
    generator = torch.Generator().manual_seed(0)
    width = model.config.joint_width
    shapes = {"target_text_features": (3, width), "target_image_features": (3, width)}
    shapes["caption_visual_features"] = (2, model.config.visual_width)
    return inputs | {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_adapters_of_zero_change_nothing(make_model, language_folder, clip_folder, pictures, dtype):
    processor = make_model()[1]
    folders = (str(language_folder), str(clip_folder))
    frozen = UniMuRModel.from_backbones(*folders, processor=processor, dtype=dtype)
    model = UniMuRModel.from_backbones(*folders, processor=processor, dtype=dtype, lora=ADAPTERS)
    model.heads.load_state_dict(frozen.heads.state_dict())
    conversations = [chat(3, pictures), "no"]
    torch.testing.assert_close(
        plain((model, processor), conversations), plain((frozen, processor), conversations), atol=0, rtol=0
    )
    weights = adapter_weights(model.language_model).values()
    assert len(weights) == 2 * 2 * 2
    assert {weight.dtype for weight in weights} == {torch.float32}


def test_gradients_reach_adapters_and_heads_alone(adapted, pictures, monkeypatch):
    model, processor = adapted
    inputs = training_inputs(model, processor, pictures)
    with torch.no_grad():
        expected = model(**inputs).loss.item()
    loss, gradients = loss_and_gradients(model.train(), inputs)
    assert loss == pytest.approx(expected, rel=1e-5)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert gradients.keys() == trained
    assert {name for name in trained if not name.startswith("heads.")} == {n for n in trained if LORA in n} != set()
    assert all(gradient.norm() > 0 for gradient in gradients.values())
    # A step along the gradient of an adapter alone lowers the loss as much as the gradient says.
    with torch.no_grad():
        for name, weight in adapter_weights(model.language_model).items():
            weight.sub_(1e-4 * gradients[f"language_model.{name}"])
        lower = model.eval()(**inputs).loss.item()
    slope = sum(float(g.square().sum()) for name, g in gradients.items() if LORA in name)
    assert loss - lower == pytest.approx(1e-4 * slope, rel=0.1)


def test_dropout_of_adapters_is_on_in_training_alone(make_model, pictures):
    model, processor = make_model(lora={**ADAPTERS, "dropout": 0.5})
    turn(model)
    batch = processor.process_queries("a cat slept on my keyboard")
    with torch.no_grad():
        one, other = (model.train().get_multimodal_features(**batch).pooler_output for _ in range(2))
        assert not torch.equal(one, other)
        one, other = (model.eval().get_multimodal_features(**batch).pooler_output for _ in range(2))
        assert torch.equal(one, other)


@pytest.mark.parametrize("heads_only", [True, False])
def test_adapters_come_back_from_beside_the_heads(
    adapted, pictures, language_folder, clip_folder, tmp_path, heads_only
):
    model, processor = adapted
    conversations = [chat(3, pictures), "no"]
    expected = plain(adapted, conversations)
    model.save_pretrained(tmp_path, heads_only=heads_only)
    processor.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        names = list(file.keys())
    assert sum(LORA in name for name in names) == 8
    if heads_only:
        assert all(name.startswith("heads.") or LORA in name for name in names)
    parts = {"language_model": str(language_folder), "clip": str(clip_folder)} if heads_only else {}
    again, info = AutoModel.from_pretrained(tmp_path, trust_remote_code=True, output_loading_info=True, **parts)
    assert not info["unexpected_keys"]
    assert again.config.lora == {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}
    pair = (again, UniMuRProcessor.from_pretrained(tmp_path))
    torch.testing.assert_close(plain(pair, conversations), expected, atol=1e-6, rtol=0)
    assert {n for n, p in again.named_parameters() if p.requires_grad} == {
        n for n, p in model.named_parameters() if p.requires_grad
    }
    if not heads_only:
        return
    weights = load_file(tmp_path / "model.safetensors")
    (tmp_path / "made").mkdir()
    write_heads(tmp_path / "made", again.config, read_heads(tmp_path), processor)
    made = load_file(tmp_path / "made" / "model.safetensors")
    assert made.keys() == weights.keys()
    assert all(torch.equal(made[name], weight) for name, weight in weights.items())
    kept = {name: weight for name, weight in weights.items() if "lora_B" not in name}
    save_file(kept, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="lora_B"):
        UniMuRModel.from_pretrained(tmp_path, **parts)


def test_chats_follow_the_adapters(adapted, pictures):
    model, processor = adapted
    cache = ChatCache(model, processor)

    def check(turns):
        found = cache.embed(chat(turns, pictures))
        torch.testing.assert_close(found, plain(adapted, chat(turns, pictures)), atol=1e-5, rtol=0)
        return found

    before = check(3)
    assert len(cache) == 1
    lora.merge(model)
    torch.testing.assert_close(check(3), before, atol=1e-4, rtol=0)
    check(4)
    lora.unmerge(model)
    torch.testing.assert_close(check(3), before, atol=1e-4, rtol=0)
    turn(model, seed=1)  # as a step of an optimizer, in place
    assert not torch.allclose(check(4), plain(adapted, chat(3, pictures)), atol=1e-3)
    for layer in model.language_model.modules():
        if hasattr(layer, "lora_A"):
            layer.enable_adapters(False)
    check(5)


def test_merged_adapters_are_not_saved_twice(adapted, tmp_path, language_folder, clip_folder):
    model, processor = adapted
    expected = plain(adapted, ["a cat"])
    lora.merge(model)
    with pytest.raises(ValueError, match="unmerge"):
        model.save_pretrained(tmp_path / "full", heads_only=False)
    model.save_pretrained(tmp_path / "heads", heads_only=True)
    again = UniMuRModel.from_pretrained(tmp_path / "heads", language_model=str(language_folder), clip=str(clip_folder))
    torch.testing.assert_close(plain((again, processor), ["a cat"]), expected, atol=1e-5, rtol=0)


def test_folded_adapters_need_no_peft(adapted, tmp_path):
    model, processor = adapted
    expected = plain(adapted, ["a cat", "no"])
    names = {n for n in model.state_dict() if LORA not in n}
    lora.fold(model).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert {n.replace(".base_layer", "") for n in names} == set(model.state_dict())
    assert not model.trains_adapters
    again = UniMuRModel.from_pretrained(tmp_path)
    torch.testing.assert_close(plain((again, processor), ["a cat", "no"]), expected, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="no adapters"):
        lora.fold(again)


def test_without_peft_the_error_names_the_extra(adapted, tmp_path, language_folder, clip_folder):
    adapted[0].save_pretrained(tmp_path, heads_only=True)
    program = (
        "import sys; sys.modules['peft'] = None\n"
        "from modeling_unimur import UniMuRModel\n"
        f"UniMuRModel.from_pretrained({str(tmp_path)!r}, language_model={str(language_folder)!r}, "
        f"clip={str(clip_folder)!r})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert "ImportError" in done.stderr.splitlines()[-1]
    assert "unimur[lora]" in done.stderr


def test_prefixes_of_adapters_that_train_are_not_kept(adapted, make_model):
    model, processor = adapted
    with pytest.raises(ValueError, match="keep_prefixes_gb"):
        PrefixStore(model)
    batch = processor.process_queries("a cat")
    states = torch.zeros(1, 4, 2, batch["input_ids"].shape[1] - 1, 8)
    with pytest.raises(ValueError, match="lora"):
        model.get_multimodal_features(**batch, prefix_states=states)


@pytest.mark.parametrize("family", ["qwen3", "gemma3_text", "gpt2", "opt"])
def test_families(make_model, tmp_path, pictures, family):
    target = ["c_attn"] if family == "gpt2" else ["q_proj", "v_proj"]
    model, processor = make_model(tiny.language_model(tmp_path, family), lora={"r": 2, "target_modules": target})
    turn(model)
    inputs = training_inputs(model, processor, pictures)
    with torch.no_grad():
        expected = model(**inputs).loss.item()
    loss, gradients = loss_and_gradients(model, inputs)
    assert loss == pytest.approx(expected, rel=1e-5)
    assert all(gradients[name].norm() > 0 for name, p in model.named_parameters() if p.requires_grad)


def test_a_run_trains_adapters_and_goes_on(language_folder, clip_folder, tmp_path):
    images = folder_run.write_pictures(tmp_path / "images")
    settings = {"max_steps": 8, "output_dir": str(tmp_path / "run")}
    path = folder_run.write_recipe(tmp_path / "recipe.yaml", images, language_folder, clip_folder, **settings)
    adapters = {"r": 2, "target_modules": ["q_proj"]}
    train(load_recipe(path, [f"model.config={{lora: {json.dumps(adapters)}}}"]))
    weights = load_file(tmp_path / "run" / "model.safetensors")
    second = {name: weight for name, weight in weights.items() if "lora_B" in name}
    assert len(second) == 2
    assert all(weight.abs().sum() > 0 for weight in second.values())
    saved = load_file(tmp_path / "run" / "checkpoint-4" / "model.safetensors")
    assert saved.keys() == weights.keys()
    # From a checkpoint the same numbers come out, and heads with adapters are a start for another run.
    resumed = [f"training.resume_from_checkpoint={tmp_path / 'run' / 'checkpoint-4'}"]
    recipe = load_recipe(path, [f"model.config={{lora: {json.dumps(adapters)}}}", *resumed])
    recipe.training.output_dir = str(tmp_path / "again")
    train(recipe)
    again = load_file(tmp_path / "again" / "model.safetensors")
    for name, weight in weights.items():
        torch.testing.assert_close(again[name], weight, atol=1e-5, rtol=1e-4, msg=name)
    recipe.model.heads = str(tmp_path / "run" / "model.safetensors")
    started, _ = build(recipe)
    assert all(torch.equal(started.state_dict()[name], weight) for name, weight in weights.items())


def test_a_run_of_one_step(language_folder, clip_folder, tmp_path):
    """The first matrix of an adapter has no gradient yet, which is no fault."""
    images = folder_run.write_pictures(tmp_path / "images")
    settings = {
        "max_steps": 1,
        "warmup_steps": 0,
        "save_steps": 1,
        "eval_steps": 1,
        "output_dir": str(tmp_path / "run"),
    }
    path = folder_run.write_recipe(tmp_path / "recipe.yaml", images, language_folder, clip_folder, **settings)
    train(load_recipe(path, ["model.config={lora: {r: 2, target_modules: [q_proj]}}"]))
    weights = load_file(tmp_path / "run" / "model.safetensors")
    assert all(weight.abs().sum() > 0 for name, weight in weights.items() if LORA in name)


def test_a_configuration_of_peft_is_taken_as_it_is():
    found = UniMuRConfig(lora=peft.LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj"]))
    assert found.lora == {"r": 4, "lora_alpha": 16, "target_modules": ["q_proj"]}
    assert UniMuRConfig(**found.to_dict()).lora == found.lora
