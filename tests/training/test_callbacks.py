"""Each guard, against the fault that it is there for."""

import copy
import math

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from transformers import TrainerCallback

from modeling_unimur.training.callbacks import TrainingGuard, checksum
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


def trainer(pair, folder, *callbacks, every=5, **kwargs):
    model, processor = pair
    return RetrievalTrainer(
        model=model,
        args=arguments(folder, **{"max_steps": 30, "lr_scheduler_type": "constant", **kwargs}),
        train_dataset=Rows(),
        data_collator=DualAlignmentCollator(processor, captions_per_batch=2),
        callbacks=[TrainingGuard(model, every=every), *callbacks],
    )


def frozen(model):
    return [parameter for parameter in model.parameters() if not parameter.requires_grad]


def test_a_sound_run_passes(make_model, tmp_path):
    trainer(make_model(), tmp_path).train()


def test_a_frozen_weight_written_in_place_is_found_at_the_next_check(make_model, tmp_path):
    pair = make_model()
    target = frozen(pair[0])[7]
    run = trainer(pair, tmp_path, Fault(6, lambda: target.view(-1)[3].add_(1e-3)))
    with pytest.raises(RuntimeError, match="frozen weight"):
        run.train()
    assert run.state.global_step == 10


def test_a_frozen_weight_changed_behind_pytorchs_count_is_found_at_the_end(make_model, tmp_path):
    pair = make_model()
    target = frozen(pair[0])[7]

    def meddle():
        before = target._version
        target.data.view(-1)[3] += 1e-6  # the least bit counts
        assert target._version == before

    run = trainer(pair, tmp_path, Fault(6, meddle), every=1000)
    with pytest.raises(RuntimeError, match="frozen weight"):
        run.train()
    assert run.state.global_step == 30


def test_frozen_running_statistics_count_too():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2))
    model[0].requires_grad_(False)
    guard = TrainingGuard(model)
    guard.on_train_begin(None, None, None)
    model.eval()(torch.randn(4, 3))
    guard.on_train_end(None, None, None)
    model.train()(torch.randn(4, 3))
    with pytest.raises(RuntimeError, match=r"0\.\w+ and 2 more"):
        guard.on_train_end(None, None, None)


def test_loading_the_same_weights_again_is_no_change():
    model = nn.Sequential(nn.Linear(3, 3).requires_grad_(False), nn.Linear(3, 2))
    guard = TrainingGuard(model)
    guard.on_train_begin(None, None, None)
    model.load_state_dict(copy.deepcopy(model.state_dict()))
    model[0].weight.data = model[0].weight.data.clone()
    guard.on_train_end(None, None, None)


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


class HoldBack(TrainerCallback):
    """Undoes what the optimizer does to one place."""

    def __init__(self, place):
        self.place = place

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        """Before the update."""
        self.before = self.place.detach().clone()

    def on_optimizer_step(self, args, state, control, **kwargs):
        """After it."""
        self.place.detach().copy_(self.before)


def test_a_ret_that_stays_untrained(make_model, tmp_path):
    pair = make_model()
    run = trainer(pair, tmp_path, HoldBack(pair[0].heads.ret_embedding))
    with pytest.raises(RuntimeError, match=r"heads\.ret_embedding .*20 steps"):
        run.train()
    assert run.state.global_step == 20


def test_one_ret_of_several_that_stays_untrained(make_model, tmp_path):
    pair = make_model(processor={"num_ret_tokens": 3})
    run = trainer(pair, tmp_path, HoldBack(pair[0].heads.ret_embedding.detach()[1]))
    with pytest.raises(RuntimeError, match=r"heads\.ret_embedding\[1\] stayed"):
        run.train()


def test_a_warm_up_is_waited_for(make_model, tmp_path):
    pair = make_model()
    slow = {"warmup_steps": 10_000, "learning_rate": 1e-9, "max_steps": 25, "lr_scheduler_type": "linear"}
    trainer(pair, tmp_path, **slow).train()  # steps smaller than the last bit
    assert pair[0].heads.logit_scale.item() == pytest.approx(math.log(1 / 0.07), abs=1e-6)


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


def test_under_ddp(make_model, tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        guard_a_wrapped_model(*make_model())  # what wraps the model must be gone before the connection
    finally:
        dist.destroy_process_group()


def guard_a_wrapped_model(model, processor) -> None:
    wrapped = DistributedDataParallel(model, find_unused_parameters=True)
    guard, state = TrainingGuard(wrapped), type("State", (), {"global_step": 0, "max_steps": 100})()
    guard.on_train_begin(None, state, None)
    assert "heads.ret_embedding" in guard._trained
    optimizer = torch.optim.SGD(model.heads.parameters(), lr=0.1)
    rows = Rows()
    batch = DualAlignmentCollator(processor, captions_per_batch=2)([rows[i] for i in range(8)])
    for step in range(1, 21):
        optimizer.zero_grad()
        wrapped(**batch).loss.backward()
        guard.on_pre_optimizer_step(None, state, None, optimizer=optimizer)
        optimizer.step()
        state.global_step = step
        guard.on_step_end(None, state, None)
    assert not guard._unseen
    guard.on_train_end(None, state, None)
    with torch.no_grad():
        frozen(model)[0].mul_(2)
    with pytest.raises(RuntimeError, match="changed"):
        guard.on_train_end(None, state, None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.uint8, torch.float64])
def test_checksum_changes_with_one_element_wherever_it_lies(dtype):
    tensor = torch.arange(35).reshape(5, 7).to(dtype)
    before = checksum(tensor)
    assert checksum(tensor.clone()) == before
    assert checksum(tensor.t().contiguous().t()) == before  # values count, not where they lie
    for index in range(tensor.numel()):
        changed = tensor.clone()
        changed.view(-1)[index] += 1
        assert checksum(changed) != before, index
    assert checksum(torch.cat([tensor.flatten()[:1], tensor.flatten()])[1:]) == before  # not aligned to words
    assert checksum(torch.empty(0, dtype=dtype)) == 0
    assert checksum(torch.empty(3, device="meta")) == 0
    scalars = [
        torch.tensor(bits, dtype=torch.uint8).view(torch.float32) for bits in ([1, 0, 128, 63], [0, 1, 128, 63])
    ]
    assert checksum(scalars[0]) != checksum(scalars[1])  # of few bytes, too
