"""Stops a run in which something trains that should not, or does not that should."""

import logging

import torch
from transformers import TrainerCallback

logger = logging.getLogger(__name__)

# Steps after which every trained weight must have moved.
_PATIENCE = 20


def _checksum(tensor: torch.Tensor) -> tuple:
    # Two sums over the raw values: cheap, and no single change leaves both alone.
    flat = tensor.detach().flatten().double()
    return float(flat.sum()), float((flat * torch.arange(1, flat.numel() + 1, device=flat.device)).sum())


class TrainingGuard(TrainerCallback):
    """Raises when a frozen weight changes, when a trained weight never gets a gradient, and when [RET] stays where it
    was.

    Args:
        model: the bare model, before any wrapper.
        every (`int`): steps between checks of the frozen weights; they are sampled, one tensor of each backbone at a
            check, all of them at the end.
    """

    def __init__(self, model: torch.nn.Module, every: int = 50):
        self.model, self.every = model, every
        self._frozen: dict[str, tuple] = {}
        self._start: dict[str, torch.Tensor] = {}
        self._seen: set = set()

    def on_train_begin(self, args, state, control, **kwargs):
        """Notes where everything stands."""
        self._frozen = {n: _checksum(p) for n, p in self.model.named_parameters() if not p.requires_grad}
        self._start = {n: p.detach().clone() for n, p in self.model.named_parameters() if p.requires_grad}
        if not self._start:
            raise ValueError("No weight is trained: every parameter is frozen.")
        if not self._frozen:
            logger.warning("No weight is frozen: the backbones train too.")

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        """Notes which trained weights have a gradient, and that it is finite."""
        for name, parameter in self.model.named_parameters():
            if parameter.grad is None:
                continue
            if not parameter.requires_grad:
                raise RuntimeError(f"The frozen weight {name} got a gradient.")
            if name not in self._seen and bool(parameter.grad.ne(0).any()):
                self._seen.add(name)

    def on_step_end(self, args, state, control, **kwargs):
        """Checks after the first steps, and some frozen weights now and then."""
        if state.global_step == min(_PATIENCE, state.max_steps):
            self._check_trained(state.global_step)
        if state.global_step % self.every == 0 and self._frozen:
            names = sorted(self._frozen)
            self._check_frozen([names[(state.global_step // self.every) % len(names)]])

    def on_train_end(self, args, state, control, **kwargs):
        """Checks every frozen weight."""
        self._check_frozen(list(self._frozen))

    def _check_trained(self, steps: int) -> None:
        idle = sorted(set(self._start) - self._seen)
        if idle:
            raise RuntimeError(
                f"No gradient ever reached {', '.join(idle)}: the batches hold nothing that reads it. Freeze it "
                "(requires_grad_(False)), or give the loss its inputs."
            )
        if steps < _PATIENCE:  # a warm-up's first steps move nothing
            return
        now = dict(self.model.named_parameters())
        still = [name for name, start in self._start.items() if torch.equal(now[name].detach(), start)]
        if still:
            raise RuntimeError(f"{', '.join(still)} stayed where it was over {_PATIENCE} steps: it does not train.")

    def _check_frozen(self, names: list) -> None:
        now = dict(self.model.named_parameters())
        for name in names:
            if _checksum(now[name]) != self._frozen[name]:
                raise RuntimeError(f"The frozen weight {name} changed during training.")


__all__ = ["TrainingGuard"]
