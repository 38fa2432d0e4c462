"""Each guard, against the fault that it is there for."""

import copy
import math

import pytest
import torch
from torch import nn
from transformers import TrainerCallback

from modeling_unimur.training.callbacks import TrainingGuard
from modeling_unimur.training.collators import DualAlignmentCollator
from modeling_unimur.training.trainer import RetrievalTrainer
from tests.training.test_trainer import Rows, arguments


class Fault(TrainerCallback):
    """Does something wrong at the beginning of a step, counted from 0."""

    def __init__(self, step: int, do):
        self.step, self.do = step, do

    def on_step_begin(self, args, state, control, **kwargs):
        """At its step."""
        if state.global_step == self.step:
            with torch.no_grad():
                self.do()


def trainer(pair, folder, *callbacks, **kwargs):
    model, processor = pair
    return RetrievalTrainer(
        model=model,
        args=arguments(folder, **{"max_steps": 30, "lr_scheduler_type": "constant", **kwargs}),
        train_dataset=Rows(),
        data_collator=DualAlignmentCollator(processor, captions_per_batch=2),
        callbacks=[TrainingGuard(model), *callbacks],
    )


def frozen(model):
    return [parameter for parameter in model.parameters() if not parameter.requires_grad]


def test_a_sound_run_moves_all_that_trains_and_nothing_else(make_model, tmp_path):
    pair = make_model(processor={"num_ret_tokens": 3})
    start = copy.deepcopy(pair[0].state_dict())
    trained = {name for name, weight in pair[0].named_parameters() if weight.requires_grad}
    trainer(pair, tmp_path).train()
    for name, value in pair[0].state_dict().items():
        assert torch.equal(value, start[name]) == (name not in trained), name
    moved = pair[0].heads.ret_embedding != start["heads.ret_embedding"]
    assert moved.flatten(1).any(dim=1).all()


def test_a_thawed_weight(make_model, tmp_path):
    pair = make_model()
    target = frozen(pair[0])[0]
    with pytest.raises(RuntimeError, match="requires_grad"):
        trainer(pair, tmp_path, Fault(4, lambda: target.requires_grad_(True))).train()


def test_a_trained_weight_without_gradient(make_model, tmp_path):
    pair = make_model(visual_matching_weight=0.0, textual_matching_weight=0.0)
    with pytest.raises(RuntimeError, match=r"heads\.logit_scale"):
        trainer(pair, tmp_path).train()
    with pytest.raises(RuntimeError, match=r"heads\.logit_scale"):
        trainer(pair, tmp_path, max_steps=3).train()


def test_a_loss_that_is_no_number_stops_before_the_weights_are_spoilt(make_model, tmp_path):
    pair = make_model()
    run = trainer(pair, tmp_path, save_strategy="steps", save_steps=1, max_grad_norm=0.0)
    rows = run.train_dataset
    run.add_callback(Fault(2, lambda: rows.image.mul_(math.nan)))  # the third step's batch is there already
    with pytest.raises(RuntimeError, match=r"step 4 .*heads\.\S+"):
        run.train()
    assert all(parameter.isfinite().all() for parameter in pair[0].heads.parameters())
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*"))[-1] == "checkpoint-3"


def test_an_infinite_gradient(make_model, tmp_path):
    pair = make_model()
    run = trainer(pair, tmp_path, max_grad_norm=0.0)

    class Overflow(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, **kwargs):
            pair[0].heads.ret_embedding.grad[0, 3] = math.inf

    run.callback_handler.callbacks.insert(0, Overflow())
    with pytest.raises(RuntimeError, match=r"heads\.ret_embedding"):
        run.train()


def test_a_term_that_is_no_number_though_the_sum_is(make_model, tmp_path):
    # A term that is only watched: no gradient tells of it.
    pair = make_model()
    run = trainer(pair, tmp_path)
    run.add_callback(Fault(15, lambda: run._terms["ret_token_loss"].append(torch.tensor(math.nan))))
    with pytest.raises(RuntimeError, match="step 20 ret_token_loss"):
        run.train()


class _Scaler:
    """An optimizer under a loss scaler, as accelerate hands it to callbacks."""

    def __init__(self, optimizer):
        self.scaler, self.param_groups = torch.amp.GradScaler("cpu"), optimizer.param_groups


def test_a_loss_scaler_may_skip_some_steps_but_not_all():
    model = nn.Linear(2, 2)
    guard, state = TrainingGuard(model), type("State", (), {"global_step": 0, "max_steps": 100})()
    optimizer = _Scaler(torch.optim.SGD(model.parameters(), lr=0.1))
    guard.on_train_begin(None, state, None)
    model.weight.grad, model.bias.grad = torch.full((2, 2), math.inf), torch.zeros(2)
    for _ in range(32):
        guard.on_pre_optimizer_step(None, state, None, optimizer=optimizer)
    with pytest.raises(RuntimeError, match="weight is NaN"):
        guard.on_pre_optimizer_step(None, state, None, optimizer=optimizer)


def test_a_resumed_run_is_not_judged_by_its_few_last_steps():
    model = nn.Linear(2, 2)
    guard, state = TrainingGuard(model), type("State", (), {"global_step": 99, "max_steps": 100})()
    guard.on_train_begin(None, state, None)
    model.weight.grad = torch.ones(2, 2)
    guard.on_pre_optimizer_step(None, state, None)
    state.global_step = 100
    guard.on_step_end(None, state, None)  # the bias had no gradient in this one step
