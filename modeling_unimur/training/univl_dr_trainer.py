"""The Trainer of UniVL-DR: which parts train, the released optimizer groups and schedule, and mining meanwhile."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback

from .distillation import Distillation
from .frozen_towers import frozen_towers
from .query_rows import Mined, QueryRows
from .trainer import RetrievalTrainer


def choose_trained_parts(model, tokenizer, image_tower: str = "trained", text_layers: int | None = None) -> None:
    """Freezes what a recipe does not train, in place.

    What no loss of contrastive training reads is frozen in any case: SigLIP's bias, the image side where captions
    alone make up a document, and the classifier of a `ImageHead`, which is the frozen tower's own.

    Args:
        model (`UniVLDRModel`): all of whose weights train so far.
        tokenizer: the dual encoder's.
        image_tower: `"trained"`; `"frozen"`: all of the image tower but its projection into the joint space; or
            `"unused"`, the projection as well.
        text_layers (*optional*): top layers of the text tower that train, with what follows them; all of the tower by
            default. 0 leaves what follows the layers.

    Raises:
        ValueError: the text tower has fewer layers, or they cannot be told.
    """
    clip, towers = model.clip, frozen_towers(model.clip, tokenizer)
    for name, weight in clip.named_parameters():
        if name.endswith("logit_bias") or ".head.classifier." in name:
            weight.requires_grad_(False)
    reads_captions_alone = image_tower == "unused" or model.config.fusion == "caption"
    if image_tower == "frozen" or reads_captions_alone:
        towers.image_tower.requires_grad_(False)
    if reads_captions_alone:
        for part in (getattr(clip, "visual_projection", None), getattr(getattr(clip, "model", None), "visual", None)):
            if part is not None:
                part.requires_grad_(False)
    if text_layers is not None:
        _freeze_lower_text(_text_parts(clip, towers), text_layers)


def _text_parts(clip, towers) -> dict[str, nn.Module | nn.Parameter]:
    """The text side by name, without the image side."""
    if towers.text_tower is not getattr(clip, "model", None):
        return {"text": towers.text_tower}
    # open_clip's own text tower lies beside the image tower, in parts.
    names = ("token_embedding", "positional_embedding", "transformer", "ln_final", "text_projection")
    found = {name: getattr(clip.model, name, None) for name in names}
    return {name: part for name, part in found.items() if part is not None}


def _freeze_lower_text(parts: dict[str, nn.Module | nn.Parameter], kept: int) -> None:
    modules = [part for part in parts.values() if isinstance(part, nn.Module)]
    lists = [m for part in modules for m in part.modules() if isinstance(m, nn.ModuleList)]
    stacks = [m for m in lists if not any(m is top for top in modules)]
    if not stacks:
        raise ValueError("The text tower's layers cannot be told: leave model.text_layers out.")
    layers = max(stacks, key=len)
    if kept > len(layers):
        raise ValueError(f"The text tower has {len(layers)} layers, not {kept} (model.text_layers).")
    for layer in layers[: len(layers) - kept]:
        layer.requires_grad_(False)
    for name, part in parts.items():
        weights = part.named_parameters(name) if isinstance(part, nn.Module) else [(name, part)]
        for full_name, weight in weights:
            if "embedding" in full_name:
                weight.requires_grad_(False)


logger = logging.getLogger(__name__)


def released_cosine(step: int, total: int, warmup: int = 0) -> float:
    """Factor on the learning rate of the optimizer's step number `step`, from 0 on, as in the released training
    scripts (after open_clip): they count a step before they ask for its rate, so that the first is a hair below the
    full rate and the last is 0."""
    number = step + 1
    if number < warmup:
        return (number + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(number - warmup, total - warmup) / max(total - warmup, 1)))


class UniVLDRTrainer(RetrievalTrainer):
    """`RetrievalTrainer` with weight decay on matrices alone, and the released form of the cosine schedule.

    Args:
        distillation (*optional*): what is learned from the batches' `teacher_scores`, beside the model's own loss.
    """

    def __init__(self, *args, distillation: Distillation | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.distillation = distillation

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        """The contrastive loss, and the weighted distillation loss."""
        inputs = dict(inputs)
        teacher = inputs.pop("teacher_scores", None)
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
        if self.distillation is not None and teacher is not None:
            config = self.accelerator.unwrap_model(model).config
            vectors = (outputs.query_embeds, outputs.document_embeds)
            learned = self.distillation(*vectors, teacher, inputs["positives"], config)
            self._terms["distillation_loss"].append(learned.detach().float())
            loss = loss + self.distillation.weight * learned
        return (loss, outputs) if return_outputs else loss

    def get_decay_parameter_names(self, model) -> list[str]:
        """Weights of two dimensions or more: no bias, no norm, no class token, no logit scale."""
        return [name for name, weight in model.named_parameters() if weight.ndim > 1]

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None):
        """`lr_scheduler_type: cosine` is the released one; others are transformers'."""
        if self.lr_scheduler is None and self.args.lr_scheduler_type == "cosine":
            warmup = self.args.get_warmup_steps(num_training_steps)
            self.lr_scheduler = LambdaLR(
                optimizer or self.optimizer, lambda step: released_cosine(step, num_training_steps, warmup)
            )
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)


class HardNegativeMiningCallback(TrainerCallback):
    """Mines hard negatives again with the current model (ANCE).

    Args:
        rows (`QueryRows`): rows that use the negatives.
        mine: computes them.
        every: steps between minings.
    """

    def __init__(self, rows: QueryRows, mine: Callable[[], Mined], every: int):
        self.rows, self.mine, self.every = rows, mine, every

    def on_train_begin(self, args, state, control, **kwargs):
        """A resumed run goes on with negatives of the model that it starts from."""
        if state.global_step >= self.every:
            self.rows.use_mined(self.mine())

    def on_step_end(self, args, state, control, **kwargs):
        """Mines at every n-th step."""
        if state.global_step % self.every == 0 and state.global_step < state.max_steps:
            logger.info("Step %d: mining hard negatives", state.global_step)
            self.rows.use_mined(self.mine())
