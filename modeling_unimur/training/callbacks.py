"""Callbacks of a training run: the guard, the log file, early stopping, the draws of an epoch, the length of [RET]."""

from __future__ import annotations

import importlib.util
import logging
import math
import os
from pathlib import Path

import torch
from transformers import EarlyStoppingCallback, TrainerCallback, TrainingArguments

from ..data.atomic_files import write_json

logger = logging.getLogger(__name__)

# Steps within which every trained weight must get a gradient.
_PATIENCE = 20
# Steps in a row that fp16's loss scaler may skip: from its start at 2^16 it halves the scale at each.
_SKIPPED = 32
FILE_NAME = "training_log.json"
# Reporting backends that are extras of this package; Trainer knows more and says itself what they lack.
_EXTRAS = ("tensorboard", "trackio")


class TrainingGuard(TrainerCallback):
    """Raises a `RuntimeError` when a frozen weight is thawed, when a trained weight never gets a gradient, and when a
    gradient or a logged figure is NaN or infinite.

    Gradients are checked before the optimizer's step, so no checkpoint holds weights without a value.

    Args:
        model: the model that trains, not wrapped.
    """

    def __init__(self, model: torch.nn.Module):
        self.model = model

    def on_train_begin(self, args, state, control, **kwargs):
        """Records which weights train.

        Raises:
            ValueError: every weight is frozen.
        """
        self._trained = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        if not self._trained:
            raise ValueError("No weight is trained: every parameter is frozen.")
        self._frozen = {name: p for name, p in self.model.named_parameters() if not p.requires_grad}
        if not self._frozen:
            logger.warning("No weight is frozen: the backbones train too.")
        self._unseen = {name for name, p in self._trained.items() if p.numel()}
        self._steps, self._skipped = 0, 0
        self._resumed = getattr(state, "global_step", 0) > 0

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
        """Checks the gradients."""
        thawed = [name for name, weight in self._frozen.items() if weight.requires_grad]
        if thawed:
            raise RuntimeError(f"The frozen weight {thawed[0]} got requires_grad during training: something thaws it.")
        gradients = {name: p.grad.detach() for name, p in self._trained.items() if p.grad is not None}
        if not _finite(list(gradients.values())):
            self._skipped += 1
            if getattr(optimizer, "scaler", None) is None or self._skipped > _SKIPPED:
                names = [name for name, gradient in gradients.items() if not _finite([gradient])]
                raise RuntimeError(
                    f"At step {state.global_step + 1} the gradient of {', '.join(names)} is NaN or infinite: the loss "
                    "has overflowed or is NaN. Lower training.learning_rate, set training.max_grad_norm, or train in "
                    "bf16 or fp32. The last checkpoint is sound."
                )
            return  # the scaler skips this step
        self._skipped = 0
        self._unseen -= {name for name in self._unseen if name in gradients and bool(gradients[name].any())}

    def on_step_end(self, args, state, control, **kwargs):
        """Checks after the first steps that every trained weight got a gradient."""
        self._steps += 1
        over = state.global_step == state.max_steps and not self._resumed  # a resumed run may have few steps left
        # The first matrix of an adapter gets its first gradient when the second one is no longer zero.
        unseen = {name for name in self._unseen if self._steps > 1 or ".lora_A." not in name}
        if unseen and (self._steps == _PATIENCE or over):
            raise RuntimeError(
                f"No gradient ever reached {', '.join(sorted(unseen))}: the batches hold nothing that reads it. "
                "Freeze it (requires_grad_(False)), or give the loss its inputs."
            )

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Checks every loss term and figure, because Trainer's own filter hides a NaN in the sum."""
        wrong = [f"{k} = {v}" for k, v in (logs or {}).items() if isinstance(v, float) and not math.isfinite(v)]
        # Trainer itself logs an infinite norm at a step that the loss scaler skips.
        if self._skipped:
            wrong = [entry for entry in wrong if not entry.startswith("grad_norm")]
        if wrong:
            raise RuntimeError(
                f"At step {state.global_step} {', '.join(wrong)}: training has failed. Lower training.learning_rate, "
                "or look at the batches that came last."
            )


def _finite(gradients: list[torch.Tensor]) -> bool:
    if not gradients:
        return True
    # One wait for all of them. The largest magnitude is finite when every element is; a sum of squares might overflow.
    norms = [torch.linalg.vector_norm(each, ord=math.inf).float() for each in gradients if each.numel()]
    return bool(torch.stack([norm.to(norms[0].device) for norm in norms]).isfinite().all())


class TrainingLogFile(TrainerCallback):
    """Writes `training_log.json` to the output folder when training ends: Trainer's `log_history`, a list of
    dictionaries, each with `step`. Lines from before a resumption are among them."""

    def on_train_end(self, args, state, control, **kwargs):
        """Writes the file atomically."""
        if not state.is_world_process_zero:
            return
        write_json(Path(args.output_dir, FILE_NAME), state.log_history)


def require_reporters(args: TrainingArguments) -> None:
    """Fails before hours of training where a reporting backend is not installed.

    Raises:
        ImportError: the message names the extra.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # trackio shows its pages by Gradio
    for name in args.report_to:
        if name in _EXTRAS and importlib.util.find_spec(name) is None:
            raise ImportError(f"training.report_to: {name} is not installed: pip install unimur[{name}]")


class EarlyStopping(EarlyStoppingCallback):
    """Stops after `early_stopping_patience` evaluations in a row without a better `metric_for_best_model`.

    The count is in the checkpoints; a run that had stopped and goes on from its last one stops at once.
    """

    def on_train_begin(self, args, state, control, **kwargs):
        """Stops a run that had already stopped."""
        super().on_train_begin(args, state, control, **kwargs)
        if self.early_stopping_patience_counter >= self.early_stopping_patience:
            control.should_training_stop = True


class EpochDraws(TrainerCallback):
    """Draws the rows again when an epoch begins, in a resumed run as in an uninterrupted one.

    Args:
        rows: a dataset with `draw(epoch)`.
    """

    def __init__(self, rows):
        self.rows = rows

    def on_epoch_begin(self, args, state, control, **kwargs):
        """Draws the rows of the epoch."""
        self.rows.draw(int(state.epoch or 0))


class RescaleRet(TrainerCallback):
    """Brings each [RET] vector to the mean norm of the vocabulary after each step (FROMAGe's training loop).

    Args:
        model (`UniMuRModel`): model of the [RET] vectors. The mean is over the first `config.loss_vocab_size` rows.
    """

    def __init__(self, model):
        self.ret = model.heads.ret_embedding
        table = model.get_input_embeddings().weight[: model.config.loss_vocab_size]
        self.norm = model.input_scale * torch.linalg.vector_norm(table.detach().float(), dim=1).mean()

    @torch.no_grad()
    def on_step_end(self, args, state, control, **kwargs):
        """Rescales the [RET] vectors."""
        lengths = torch.linalg.vector_norm(self.ret, dim=1, keepdim=True)
        self.ret.mul_(self.norm.to(lengths) / lengths)
