"""Accumulation over k micro-batches is the mean of k losses, each with its own negatives and its own label count."""

import pytest
import torch
from transformers import TrainerCallback

from modeling_unimur.training.arguments import RetrievalTrainingArguments
from modeling_unimur.training.collators import DualAlignmentCollator
from modeling_unimur.training.trainer import RetrievalTrainer
from tests.training.test_trainer import Rows


class KeepGradients(TrainerCallback):
    """What the optimizer was about to use."""

    def __init__(self):
        self.gradients = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})


def arguments(folder, **kwargs):
    defaults = {
        "max_steps": 1, "logging_steps": 1, "learning_rate": 0.0, "max_grad_norm": 0.0, "save_strategy": "no",
        "remove_unused_columns": False, "use_cpu": True, "seed": 0, "per_device_train_batch_size": 8,
    }  # fmt: skip
    return RetrievalTrainingArguments(output_dir=str(folder), **{**defaults, **kwargs})


def run(model, processor, folder, **kwargs):
    """One step of the optimizer: its gradients, its log line, and the micro-batches that it read."""
    collate, batches, kept = DualAlignmentCollator(processor), [], KeepGradients()

    def collator(rows):
        batches.append(collate(rows))
        return batches[-1]

    trainer = RetrievalTrainer(
        model=model, args=arguments(folder, **kwargs), train_dataset=Rows(), data_collator=collator, callbacks=[kept]
    )
    trainer.train()
    model.zero_grad()
    return kept.gradients[0], trainer.state.log_history[0], batches


@pytest.fixture(scope="module")
def pair64(make_model):
    torch.manual_seed(0)
    model, processor = make_model(ret_token_loss_weight=0.5)
    return model.double(), processor


@pytest.mark.parametrize("chunk", [None, 1])
def test_gradient_and_logged_loss_are_the_mean_over_micro_batches(pair64, tmp_path, chunk):
    model, processor = pair64
    gradients, line, batches = run(
        model, processor, tmp_path, per_device_train_batch_size=2, gradient_accumulation_steps=4,
        gradient_cache_chunk=chunk,
    )  # fmt: skip
    batches = batches[:4]
    labels = [int((batch["caption_labels"] != -100).sum()) for batch in batches]
    assert len(set(labels)) > 1  # else the two ways to take the mean agree
    losses = []
    for batch in batches:
        outputs = model(**batch)
        (outputs.loss / 4).backward()
        losses.append(outputs)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(
                gradients[name], parameter.grad, atol=1e-9, rtol=1e-6, msg=lambda m, n=name: n + m
            )
    model.zero_grad()
    assert line["loss"] == pytest.approx(sum(o.loss.item() for o in losses) / 4, abs=1e-4)  # Trainer rounds
    for term in ("caption_loss", "visual_matching_loss", "textual_matching_loss", "ret_token_loss"):
        assert line[term] == pytest.approx(sum(o[term].item() for o in losses) / 4, abs=1e-5), term


def test_accumulation_is_no_bigger_batch_and_the_gradient_cache_is(pair64, tmp_path):
    model, processor = pair64
    whole, line, batches = run(model, processor, tmp_path / "a")
    cached, cached_line, _ = run(model, processor, tmp_path / "b", gradient_cache_chunk=2)
    accumulated, accumulated_line, _ = run(
        model, processor, tmp_path / "c", per_device_train_batch_size=2, gradient_accumulation_steps=4
    )
    assert len(batches[0]["input_ids"]) == 8
    for name, gradient in whole.items():
        torch.testing.assert_close(cached[name], gradient, atol=1e-9, rtol=1e-6, msg=lambda m, n=name: n + m)
    assert cached_line["loss"] == pytest.approx(line["loss"], abs=1e-4)
    # Two candidates are easier to tell apart than eight.
    assert accumulated_line["textual_matching_loss"] < line["textual_matching_loss"] - 0.3
    difference = accumulated["heads.ret_embedding"] - whole["heads.ret_embedding"]
    assert difference.abs().max() > 1e-3 * whole["heads.ret_embedding"].abs().max()
