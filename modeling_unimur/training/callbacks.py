"""Callbacks of a training run: the guard, the log file, early stopping, and the length of [RET]."""

from __future__ import annotations

import importlib.util
import json
import logging
import math
import os
from pathlib import Path

import torch
from transformers import EarlyStoppingCallback, TrainerCallback, TrainingArguments

logger = logging.getLogger(__name__)

# Steps at no less than half the peak learning rate after which every trained weight must have moved; during a warm-up
# a step may be smaller than the weight's last bit. Also the steps in which every trained weight must get a gradient.
_PATIENCE = 20
# Steps in a row that fp16's loss scaler may skip: from its start at 2^16 it halves the scale at each.
_SKIPPED = 32
# Words of eight bytes that a checksum adds up at a time: 128 MB.
_CHUNK = 2**24
FILE_NAME = "training_log.json"
# Reporting backends that are extras of this package; Trainer knows more and says itself what they lack.
_EXTRAS = ("tensorboard", "trackio")


class TrainingGuard(TrainerCallback):
    """Raises when a frozen weight changes or is thawed, when a trained weight never gets a gradient or stays where it
    was, when a [RET] vector does, and when a loss or a gradient is no number.

    Frozen weights are compared bit by bit, without a copy of them: their sums at the start and at the end, and between
    whatever PyTorch counts as written to, and one tensor in turn every `every` steps. Gradients are judged before the
    optimizer's step, so no checkpoint holds weights without a value. Under DDP, FSDP and DeepSpeed every rank judges
    what it holds.

    Args:
        model: whose weights train; a wrapper is taken off.
        every (`int`): steps between checks of the frozen weights.
    """

    def __init__(self, model: torch.nn.Module, every: int = 50):
        while hasattr(model, "module") or hasattr(model, "_orig_mod"):  # DDP, torch.compile
            model = model.module if hasattr(model, "module") else model._orig_mod
        self.model, self.every = model, every

    def on_train_begin(self, args, state, control, **kwargs):
        """Notes where everything stands."""
        self._trained = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        if not self._trained:
            raise ValueError("No weight is trained: every parameter is frozen.")
        self._frozen = {n: p for n, p in self.model.named_parameters() if not p.requires_grad}
        self._frozen_buffers()
        if not self._frozen:
            logger.warning("No weight is frozen: the backbones train too.")
        self._sums = {name: checksum(tensor) for name, tensor in self._frozen.items()}
        self._sizes = {name: numel(tensor) for name, tensor in self._frozen.items()}
        self._versions = {name: _version(tensor) for name, tensor in self._frozen.items()}
        self._start = {name: checksum(tensor) for name, tensor in self._trained.items() if numel(tensor)}
        self._ret = {n: _rows(p).clone() for n, p in self._trained.items() if n.endswith("ret_embedding")}
        self._unseen = set(self._start)
        self._steps, self._full_steps, self._skipped, self._next = 0, 0, 0, 0
        self._resumed = getattr(state, "global_step", 0) > 0

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
        """Judges the gradients."""
        thawed = [name for name, tensor in self._frozen.items() if tensor.requires_grad]
        if thawed:
            raise RuntimeError(f"The frozen weight {thawed[0]} got requires_grad during training: something thaws it.")
        gradients = [p.grad for p in self._trained.values() if p.grad is not None]
        if not _finite(gradients):
            self._skipped += 1
            if getattr(optimizer, "scaler", None) is None or self._skipped > _SKIPPED:
                names = [n for n, p in self._trained.items() if p.grad is not None and not _finite([p.grad])]
                raise RuntimeError(
                    f"At step {state.global_step + 1} the gradient of {', '.join(names)} is NaN or infinite: the loss "
                    "has overflowed or is NaN. Lower training.learning_rate, set training.max_grad_norm, or train in "
                    "bf16 or fp32. The last checkpoint is sound."
                )
            return  # the scaler skips this step
        self._skipped = 0
        for name in sorted(self._unseen):
            gradient = self._trained[name].grad
            if gradient is not None and any(bool(part.any()) for part in local_parts(gradient)):
                self._unseen.discard(name)
        if optimizer is not None:
            groups = [(group["lr"], group.get("initial_lr", group["lr"])) for group in optimizer.param_groups]
            self._full_steps += all(float(now) >= 0.5 * float(peak) for now, peak in groups)

    def on_step_end(self, args, state, control, **kwargs):
        """Checks after the first steps, and some frozen weights now and then."""
        self._steps += 1
        over = state.global_step == state.max_steps and not self._resumed  # a resumed run may have few steps left
        if self._unseen and (self._steps == _PATIENCE or over):
            raise RuntimeError(
                f"No gradient ever reached {', '.join(sorted(self._unseen))}: the batches hold nothing that reads it. "
                "Freeze it (requires_grad_(False)), or give the loss its inputs."
            )
        if self._start and self._full_steps == _PATIENCE:
            self._check_moved()
        if self._steps % self.every == 0:
            written = [name for name, tensor in self._frozen.items() if _version(tensor) != self._versions[name]]
            in_turn = list(self._frozen)[self._next : self._next + 1]
            self._next = (self._next + 1) % max(len(self._frozen), 1)
            self._check_frozen({*written, *in_turn})

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Every loss term and every figure must be a number; Trainer's own filter hides a NaN in the sum."""
        wrong = [f"{k} = {v}" for k, v in (logs or {}).items() if isinstance(v, float) and not math.isfinite(v)]
        # Trainer itself logs an infinite norm at a step that the loss scaler skips.
        if self._skipped:
            wrong = [entry for entry in wrong if not entry.startswith("grad_norm")]
        if wrong:
            raise RuntimeError(
                f"At step {state.global_step} {', '.join(wrong)}: training has failed. Lower training.learning_rate, "
                "or look at the batches that came last."
            )

    def on_train_end(self, args, state, control, **kwargs):
        """Checks every frozen weight."""
        self._check_frozen(set(self._frozen))

    def _frozen_buffers(self) -> None:
        # Running statistics of a frozen tower change when it is left in training mode.
        kept = self.model.state_dict(keep_vars=True).keys()
        for prefix, module in self.model.named_modules():
            if not any(p.requires_grad for p in module.parameters(recurse=False)):
                for name, buffer in module.named_buffers(prefix, recurse=False):
                    if name in kept:
                        self._frozen[name] = buffer

    def _check_moved(self) -> None:
        judged = {n: start for n, start in self._start.items() if not n.endswith("logit_scale")}  # may rest at a limit
        still = [name for name, start in judged.items() if bool(checksum(self._trained[name]) == start)]
        for name, start in self._ret.items():
            rows = _rows(self._trained[name])
            if rows.shape == start.shape and rows.numel() and name not in still:
                idle = (rows == start).flatten(1).all(dim=1).nonzero().flatten().tolist()
                still.extend(f"{name}[{row}]" for row in idle)
        self._start = {}
        if still:
            raise RuntimeError(
                f"{', '.join(still)} stayed where it was over {_PATIENCE} steps: it does not train. Its gradient is "
                "cut off or lost in the optimizer; freeze it (requires_grad_(False)) if that is meant."
            )

    def _check_frozen(self, names: set[str]) -> None:
        changed = {n: checksum(self._frozen[n]) != self._sums[n] for n in names if self._comparable(n)}
        wrong = sorted(name for name, differs in changed.items() if bool(differs))
        if wrong:
            more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
            raise RuntimeError(f"The frozen weight {wrong[0]}{more} changed during training.")
        self._versions.update({name: _version(self._frozen[name]) for name in names})

    def _comparable(self, name: str) -> bool:
        # FSDP may hold a weight whole at one time and its shard at another.
        return numel(self._frozen[name]) == self._sizes[name]


def _version(tensor: torch.Tensor) -> tuple:
    # PyTorch counts in-place writes; a new storage has another address.
    return tuple((0 if part.is_inference() else part._version, part.data_ptr()) for part in local_parts(tensor))


def _rows(parameter: torch.Tensor) -> torch.Tensor:
    parts = local_parts(parameter)
    return parts[0] if parts else parameter.detach()


def _finite(tensors: list[torch.Tensor]) -> bool:
    parts = [part for tensor in tensors for part in local_parts(tensor) if part.numel()]
    if not parts:
        return True
    # One wait for all of them. The largest magnitude is finite when every element is; a sum of squares might overflow.
    norms = [torch.linalg.vector_norm(part, ord=math.inf).float() for part in parts]
    return bool(torch.stack([norm.to(norms[0].device) for norm in norms]).isfinite().all())


class TrainingLogFile(TrainerCallback):
    """Writes `training_log.json` to the output folder when training ends: Trainer's `log_history`, a list of
    dictionaries, each with `step`. Lines from before a resumption are among them."""

    def on_train_end(self, args, state, control, **kwargs):
        """Writes the file, whole or not at all."""
        if not state.is_world_process_zero:
            return
        path = Path(args.output_dir, FILE_NAME)
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{FILE_NAME}.{os.getpid()}")
        aside.write_text(json.dumps(state.log_history, indent=1) + "\n", encoding="utf-8")
        os.replace(aside, path)


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
        """Stops where the count says so."""
        super().on_train_begin(args, state, control, **kwargs)
        if self.early_stopping_patience_counter >= self.early_stopping_patience:
            control.should_training_stop = True


class RescaleRet(TrainerCallback):
    """Brings each [RET] vector to the mean norm of the vocabulary after each step (FROMAGe's training loop).

    Args:
        model (`UniMuRModel`): whose [RET] vectors train; `config.loss_vocab_size` says how many rows count.
    """

    def __init__(self, model):
        self.ret = model.heads.ret_embedding
        table = model.get_input_embeddings().weight[: model.config.loss_vocab_size]
        self.norm = model.input_scale * torch.linalg.vector_norm(table.detach().float(), dim=1).mean()

    @torch.no_grad()
    def on_step_end(self, args, state, control, **kwargs):
        """Rescales them."""
        lengths = torch.linalg.vector_norm(self.ret, dim=1, keepdim=True)
        self.ret.mul_(self.norm.to(lengths) / lengths)


# -- exact checksums of weights, at the speed of memory ---------------------------------------------------------------
def local_parts(tensor: torch.Tensor) -> list[torch.Tensor]:
    """The plain tensors that this process holds of a tensor: itself, the local shard of a distributed one, the codes
    and scales of a quantised one. Nothing of one without storage (offloaded, or on the meta device)."""
    if hasattr(tensor, "__tensor_flatten__"):
        names, _ = tensor.__tensor_flatten__()
        inner = [getattr(tensor, name) for name in names]
        return [part for value in inner if isinstance(value, torch.Tensor) for part in local_parts(value)]
    return [] if tensor.is_meta else [tensor.detach()]


def checksum(tensor: torch.Tensor) -> torch.Tensor:
    """The sum of a tensor's bits, read as integers of eight bytes, modulo 2^64; on the tensor's device, without
    waiting for it. Any change of one word changes it.

    Returns:
        0-dimensional `torch.int64` tensor.
    """
    total = None
    for part in local_parts(tensor):
        raw = part.contiguous().view(-1).view(torch.uint8)
        words = raw.numel() // 8
        if raw.storage_offset() % 8:  # cannot be read as words where it lies
            raw = raw.clone()
        whole = raw[: 8 * words].view(torch.int64)
        sums = [chunk.sum() for chunk in whole.split(_CHUNK)] if words else []
        rest = raw[8 * words :]  # filled up to a word: a sum of its bytes is the same for many values
        if rest.numel():
            sums.append(torch.cat([rest, rest.new_zeros(8 - rest.numel())]).view(torch.int64).sum())
        if not sums:
            continue
        here = torch.stack(sums).sum()
        total = here if total is None else total + here.to(total.device)
    return torch.zeros((), dtype=torch.int64) if total is None else total


def numel(tensor: torch.Tensor) -> int:
    """Elements that this process holds."""
    return sum(part.numel() for part in local_parts(tensor))


__all__ = [
    "FILE_NAME",
    "EarlyStopping",
    "RescaleRet",
    "TrainingGuard",
    "TrainingLogFile",
    "checksum",
    "require_reporters",
]
