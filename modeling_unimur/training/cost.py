"""Estimates the cost of a run before it starts: parameters, device memory, steps, operations and time."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

import torch
from torch import nn
from transformers import AutoConfig

from .. import UniMuRConfig, UniMuRModel, UniVLDRConfig, UniVLDRModel
from .recipes import Recipe

_ADAM = 16  # bytes of a trained float32 weight: itself, its gradient and AdamW's two moments
_KEPT = 10  # numbers of an activation kept for the backward pass, per unit of width, token and layer: frozen matrices
_KEPT_TRAINED = 18  # the same, where the inputs of trained matrices and of the attention are kept too
_REACHED = 0.5  # share of a matrix product's speed that a step reaches
_GIGA, _TERA = 1e9, 1e12


@dataclass
class Cost:
    """An estimate of one run.

    Args:
        parameters, trained: numbers of weights, and of those that train.
        memory: bytes on the device by what takes them.
        steps: number of steps of the whole run, by stage.
        flop: operations of one step on one device, by stage.
        once: operations that are computed once and kept, such as the outputs of frozen towers.
    """

    parameters: int
    trained: int
    memory: dict[str, float] = field(default_factory=dict)
    steps: dict[str, int] = field(default_factory=dict)
    flop: dict[str, float] = field(default_factory=dict)
    once: float = 0.0

    @property
    def total_flop(self) -> float:
        """Operations of the whole run."""
        return self.once + sum(self.flop[stage] * steps for stage, steps in self.steps.items())

    def lines(self, speed: float) -> list[str]:
        """Describes the estimate, one fact per line.

        Args:
            speed: operations per second of the device, as `matrix_speed` measures them.
        """
        reached = speed * _REACHED
        memory = ", ".join(f"{name} {size / _GIGA:.2f}" for name, size in self.memory.items())
        found = [
            f"parameters: {self.parameters:,}, of which {self.trained:,} train",
            f"memory of the device: about {sum(self.memory.values()) / _GIGA:.2f} GB ({memory})",
        ]
        for stage, steps in self.steps.items():
            flop = self.flop[stage]
            found.append(f"{stage}: {steps:,} steps of {flop / _TERA:.3g} TFLOP, {flop / reached:.2g} s each")
        if self.once:
            found.append(f"computed once and kept: {self.once / _TERA:,.3g} TFLOP, {_duration(self.once / reached)}")
        found.append(
            f"time of the training: about {_duration(self.total_flop / reached)}, computed, at half of the "
            f"{speed / _TERA:.3g} TFLOP/s that a matrix product reaches here; reading and decoding of images, "
            "evaluations and checkpoints come on top"
        )
        return found


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"


def matrix_speed(dtype: torch.dtype, seconds: float = 0.5) -> float:
    """Measures the operations per second of a product of two square matrices on this device."""
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    size = 512 if device.type == "cpu" else 8_192

    def product(count: int) -> None:
        for _ in range(count):
            matrix @ matrix
        if device.type != "cpu":
            torch.accelerator.synchronize()

    matrix = torch.randn(size, size, device=device).to(dtype)
    product(2)
    count, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < seconds:
        product(4)
        count += 4
    return count * 2 * size**3 / spent


def _count(module: nn.Module, trained: bool = False) -> int:
    return sum(weight.numel() for weight in module.parameters() if weight.requires_grad or not trained)


def _blocks(tower: nn.Module) -> int:
    """Counts the weights that each token passes: all but the embedding tables."""
    tables = sum(part.weight.numel() for part in tower.modules() if isinstance(part, nn.Embedding))
    return _count(tower) - tables


def _towers(model: nn.Module, config) -> tuple[float, float] | None:
    """Returns the operations of the forward passes of one text and one image, or None if a tower is no transformer."""
    if not hasattr(config, "vision_config") or not hasattr(config.vision_config, "patch_size"):
        return None
    image_tokens = (config.vision_config.image_size // config.vision_config.patch_size) ** 2 + 1
    text_tokens = config.text_config.max_position_embeddings
    return 2.0 * _blocks(model.text_model) * text_tokens, 2.0 * _blocks(model.vision_model) * image_tokens


def _steps(recipe: Recipe, rows: int | None) -> int:
    args = recipe.training
    if args.max_steps >= 0:
        return args.max_steps
    if rows is None:
        raise ValueError("The number of steps depends on the number of rows: pass rows, or set training.max_steps.")
    batches = rows / (args.train_batch_size * args.world_size * args.gradient_accumulation_steps)
    return (int(batches) if args.dataloader_drop_last else math.ceil(batches)) * math.ceil(args.num_train_epochs)


def estimate_cost(recipe: Recipe, rows: int | None = None) -> Cost:
    """Estimates a run from the configurations of its backbones, without loading weights.

    Args:
        recipe: recipe of task `unimur` or `univl_dr`.
        rows: captioned images, or training queries.

    Raises:
        ValueError: another task, or the steps depend on `rows` and it is None.
    """
    if recipe.task not in ("unimur", "univl_dr"):
        raise ValueError(f"The cost of task {recipe.task!r} is not estimated: take a recipe of unimur or univl_dr.")
    clip = AutoConfig.from_pretrained(recipe.model.clip, revision=recipe.model.clip_revision or "main")
    return (_unimur if recipe.task == "unimur" else _univl_dr)(recipe, clip, rows)


def _unimur(recipe: Recipe, clip, rows: int | None) -> Cost:
    chosen, data = recipe.model, recipe.data
    revision = chosen.language_model_revision or "main"
    text = AutoConfig.from_pretrained(chosen.language_model, revision=revision)
    numbers = {
        name: chosen.processor[name] for name in ("num_ret_tokens", "num_visual_tokens") if name in chosen.processor
    }
    ids = list(range(numbers.get("num_ret_tokens", 1)))
    numbers |= {"ret_token_ids": ids, "image_token_id": len(ids)}
    config = UniMuRConfig(text_config=text, clip_config=clip, **numbers, **chosen.config)
    with torch.device("meta"):
        model = UniMuRModel(config)
    text, size = text.get_text_config(), getattr(torch, chosen.language_model_dtype).itemsize
    language, batch = _count(model.language_model), recipe.training.train_batch_size
    tokens = batch * (data.max_context_tokens or data.max_caption_tokens)
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    cached = text.num_hidden_layers * 2 * heads * width * size * tokens
    captioned = 0 if not config.caption_loss_weight else min(batch, data.captions_per_batch or batch)
    caption_tokens = captioned * data.max_caption_tokens
    # The context runs forward once; [RET] alone, and the captions, run forward and backward.
    flop = 2.0 * language * (tokens + 2 * batch + 2 * caption_tokens)
    flop += 4.0 * text.vocab_size * text.hidden_size * caption_tokens
    kept = _KEPT * size * text.hidden_size * text.num_hidden_layers * caption_tokens
    memory = {
        "language model": language * size,
        "key-value cache": cached,
        "activations": kept,
        "heads and AdamW": _ADAM * _count(model, trained=True),
    }
    towers = _towers(model.clip, clip)
    once = 0.0 if towers is None or rows is None else sum(towers) * rows
    flop *= recipe.training.gradient_accumulation_steps
    steps = {"training": _steps(recipe, rows)}
    return Cost(_count(model), _count(model, trained=True), memory, steps, {"training": flop}, once)


def _univl_dr(recipe: Recipe, clip, rows: int | None) -> Cost:
    chosen, batch = recipe.model, recipe.training.train_batch_size
    with torch.device("meta"):
        model = UniVLDRModel(UniVLDRConfig(clip_config=clip, **chosen.config))
    weights = _count(model)
    cost = Cost(weights, weights, {"weights and AdamW": _ADAM * weights})
    towers = _towers(model.clip, clip)
    if chosen.image_tower != "trained" or chosen.text_layers is not None or towers is None:
        raise ValueError("The cost is estimated where both towers train and are transformers (image_tower: trained).")
    text_width = clip.text_config.hidden_size * clip.text_config.num_hidden_layers
    image_width = clip.vision_config.hidden_size * clip.vision_config.num_hidden_layers
    text_tokens = clip.text_config.max_position_embeddings
    image_tokens = (clip.vision_config.image_size // clip.vision_config.patch_size) ** 2 + 1
    for stage in recipe.data.stages:
        sampler = recipe.data.stage_sampler(stage)
        negatives = recipe.data.image_negatives + recipe.data.text_negatives if sampler.hard else 0
        texts = batch * (2 + negatives)  # queries, positives and negatives; an image has its caption
        images = batch / 2 + (recipe.data.image_negatives * batch if sampler.hard else 0)  # half ask for images
        once = 3.0 * (texts * towers[0] + images * towers[1])
        cost.flop[f"stage {stage}"] = once * recipe.training.gradient_accumulation_steps
        cost.steps[f"stage {stage}"] = _steps(recipe, rows)
        numbers = texts * text_tokens * text_width + images * image_tokens * image_width
        kept = cost.memory.get("activations", 0.0)
        cost.memory["activations"] = max(kept, 4.0 * _KEPT_TRAINED * numbers)
    return cost
