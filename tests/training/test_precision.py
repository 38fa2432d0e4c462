"""What trains is float32, whatever the frozen language model and autocast are; how near the losses then are."""

import copy
import math

import pytest
import torch
from torch.nn import functional as F

from modeling_unimur.contrastive_loss import contrastive_loss
from modeling_unimur.training.collators import DualAlignmentCollator
from modeling_unimur.training.gradient_cache import gradient_cached_step
from modeling_unimur.training.trainer import RetrievalTrainer
from tests.training.test_accumulation import arguments
from tests.training.test_trainer import Rows

_TERMS = ("caption_loss", "visual_matching_loss", "textual_matching_loss")
# Of losses from 3 to 6; measured 0.012 and 0.0024. The small models' weights are five times the usual.
_NEAR = {torch.bfloat16: 0.03, torch.float16: 0.006}


@pytest.fixture(scope="module")
def trained_pair(make_model):
    torch.manual_seed(0)
    return make_model()


def batch_of(processor) -> dict:
    rows = Rows()
    return DualAlignmentCollator(processor)([rows[number] for number in range(8)])


def with_language_model(model, dtype):
    low = copy.deepcopy(model)
    low.language_model.to(dtype)
    return low


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_frozen_language_model_in_half_precision(trained_pair, dtype):
    model, processor = trained_pair
    low, batch = with_language_model(model, dtype), batch_of(processor)
    wanted, found = model(**batch), low(**batch)
    found.loss.backward()
    for name in _TERMS:
        assert found[name].dtype == torch.float32
        assert found[name].item() == pytest.approx(wanted[name].item(), abs=_NEAR[dtype]), name
    for name, weight in low.heads.named_parameters():
        assert weight.dtype == torch.float32
        assert weight.grad.dtype == torch.float32, name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(trained_pair, dtype):
    model, processor = trained_pair
    batch = batch_of(processor)
    wanted = model(**batch)
    with torch.autocast("cpu", dtype=dtype):
        found = model(**batch)
    for name in _TERMS:
        assert found[name].dtype == torch.float32
        assert found[name].item() == pytest.approx(wanted[name].item(), abs=_NEAR[dtype]), name


def test_contrastive_logits_are_float32_under_autocast():
    generator = torch.Generator().manual_seed(0)
    left, right = (F.normalize(torch.randn(64, 32, generator=generator), dim=-1) for _ in range(2))
    scale = torch.tensor(100.0)
    wanted = contrastive_loss(left, right, scale)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = contrastive_loss(left, right, scale)
        plain = F.cross_entropy(scale * left @ right.T, torch.arange(64))
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(wanted.item())
    exact = F.cross_entropy(scale * left @ right.T, torch.arange(64))
    assert abs(plain.item() - exact.item()) > 1e-3  # what is avoided
    low = contrastive_loss(left.bfloat16(), right.bfloat16(), scale)
    assert low.dtype == torch.float32
    exact = contrastive_loss(left.bfloat16().float(), right.bfloat16().float(), scale)
    assert low.item() == pytest.approx(exact.item())


@pytest.mark.parametrize("chunk", [0, 3])
def test_float16_with_a_loss_scaler(trained_pair, chunk):
    """The steps that Trainer takes with fp16, which it allows on a GPU alone."""
    model, processor = trained_pair
    batch = batch_of(processor)
    model(**batch).loss.backward()
    wanted = {n: p.grad.clone() for n, p in model.heads.named_parameters()}
    model.zero_grad()
    low = with_language_model(model, torch.float16)
    before = {n: p.detach().clone() for n, p in low.heads.named_parameters()}
    optimizer = torch.optim.SGD(low.heads.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)

    def backward(loss):
        scaler.scale(loss).backward()

    def autocast():
        return torch.autocast("cpu", dtype=torch.float16)

    for _ in range(20):  # a scale that overflows is halved and the step left out
        optimizer.zero_grad()
        if chunk:
            gradient_cached_step(low, batch, chunk, bare=low, backward=backward, autocast=autocast)
        else:
            with autocast():
                loss = low(**batch).loss
            backward(loss)
        scaler.unscale_(optimizer)
        if all(p.grad.isfinite().all() for p in low.heads.parameters()):
            break
        scaler.step(optimizer)
        scaler.update()
        assert all(torch.equal(p, before[n]) for n, p in low.heads.named_parameters())
    for name, weight in low.heads.named_parameters():
        difference = (weight.grad - wanted[name]).norm() / wanted[name].norm().clamp(min=1e-6)
        assert difference < 0.05, name
    scaler.step(optimizer)
    assert all(not torch.equal(p, before[n]) for n, p in low.heads.named_parameters())


def run(model, processor, folder, **kwargs):
    model = copy.deepcopy(model)
    settings = {"max_steps": 10, "learning_rate": 5e-3, **kwargs}
    trainer = RetrievalTrainer(
        model=model,
        args=arguments(folder, **settings),
        train_dataset=Rows(),
        data_collator=DualAlignmentCollator(processor),
    )
    trainer.train()
    return model, trainer, [line["loss"] for line in trainer.state.log_history if "loss" in line]


@pytest.mark.parametrize("chunk", [None, 3])
def test_trainer_in_bfloat16_follows_float32(trained_pair, tmp_path, chunk):
    model, processor = trained_pair
    _, _, wanted = run(model, processor, tmp_path / "fp32")
    low, trainer, found = run(
        with_language_model(model, torch.bfloat16), processor, tmp_path / "bf16", bf16=True, gradient_cache_chunk=chunk
    )
    assert all(weight.dtype == torch.float32 for weight in low.heads.parameters())
    states = [v for state in trainer.optimizer.state.values() for v in state.values() if v.ndim]
    assert states
    assert all(value.dtype == torch.float32 for value in states)
    assert found == pytest.approx(wanted, abs=0.05)  # of sums from 14 down to 6; measured 0.016
    assert found[-1] < found[0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="Trainer takes fp16 on a GPU alone")
@pytest.mark.parametrize("chunk", [None, 3])
def test_trainer_in_float16_follows_float32(trained_pair, tmp_path, chunk):
    model, processor = trained_pair
    _, _, wanted = run(model, processor, tmp_path / "fp32", use_cpu=False)
    low = with_language_model(model, torch.float16)
    _, _, found = run(low, processor, tmp_path / "fp16", fp16=True, use_cpu=False, gradient_cache_chunk=chunk)
    assert found == pytest.approx(wanted, abs=0.05)


def test_the_logit_scale_stays_below_its_limit(trained_pair, tmp_path):
    model, processor = copy.deepcopy(trained_pair[0]), trained_pair[1]
    with torch.no_grad():
        model.heads.logit_scale.fill_(math.log(150))
    held, _, _ = run(model, processor, tmp_path / "a", learning_rate=1e-9, max_steps=2)
    free, _, _ = run(model, processor, tmp_path / "b", learning_rate=1e-9, max_steps=2, max_logit_scale=None)
    assert held.heads.logit_scale.item() == pytest.approx(math.log(100))
    assert free.heads.logit_scale.item() == pytest.approx(math.log(150))
    with pytest.raises(ValueError, match="max_logit_scale"):
        arguments(tmp_path, max_logit_scale=0.5)
    with pytest.raises(ValueError, match="gradient_cache_chunk"):
        arguments(tmp_path, gradient_cache_chunk=0)
