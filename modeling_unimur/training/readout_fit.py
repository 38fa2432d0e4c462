"""Solves the readout in closed form, by ridge regression on frozen states, and refines the solution by contrastive
losses.

`fit_readout` and `start_image_map` give maps before training, `refit_readout` solves the readout once more
afterwards. `fit_ridge` also serves the linear baseline of the evaluation.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import Dataset
from tqdm.auto import tqdm, trange

from ..contrastive_loss import contrastive_loss
from ..encoding.encoder import embed_by_length
from ..evaluation.metrics import first_right_ranks
from ..modeling_unimur import UniMuRModel
from .collators import DualAlignmentCollator, all_rows, render_turns

logger = logging.getLogger(__name__)

# Relative to the mean variance of an input.
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
# Rows that a penalty is judged by.
_MOST_JUDGES = 1000
# Rows that are added up together.
_PIECE = 4096
# Contexts that the language model reads at a time.
_CONTEXTS = 64
_INPUTS = ("input_ids", "attention_mask", "prefix_states", "visual_features")
# CLIP's initial temperature. It and the rate were chosen on 300 held-out WordNet glosses (SmolLM2-135M,
# all-MiniLM-L6-v2): factors of 50 and more on the cosines, or ten times the rate, lose what the closed form had.
_SCALE = 1 / 0.07
_LEARNING_RATE = 2e-4
_STEPS = 100
_BATCH = 512


# -- ridge regression -------------------------------------------------------------------------------------------------
@dataclass
class RidgeMap:
    """A linear map: `inputs @ weight.T + bias`.

    Args:
        weight (`(outputs, inputs)`), bias (`(outputs,)`): float32.
        penalty: the one that was chosen.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    penalty: float

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs @ self.weight.T + self.bias

    def queries(self, states: torch.Tensor) -> torch.Tensor:
        """Returns the unified embeddings `(contexts, width)` of hidden states `(contexts, layers * width)`, unit
        vectors."""
        return F.normalize(self(states), dim=-1)


def fit_ridge(
    inputs: torch.Tensor,
    targets: torch.Tensor,
    groups: torch.Tensor,
    offsets: torch.Tensor | None = None,
    penalties: tuple[float, ...] = PENALTIES,
    seed: int = 0,
) -> RidgeMap:
    """Fits a ridge regression on all rows. The penalty is chosen by retrieval (mean reciprocal rank) on groups that a
    first fit has not seen: a tenth of them, up to 1,000 rows.

    Args:
        inputs (`(rows, in)`), targets (`(rows, out)`): the targets are unit vectors.
        groups (`(rows,)`): equal ones have the same target.
        offsets (`(rows, out)`, *optional*): is added to what the map gives. With the inputs as offsets a large penalty
            gives the inputs back.
        penalties: to choose from, as shares of the inputs' mean variance.
        seed: seed of the choice of groups.

    Raises:
        ValueError: for fewer than four rows, or two groups.
    """
    distinct = groups.unique()
    if len(inputs) < 4 or len(distinct) < 2:
        raise ValueError(
            f"A linear map needs four texts with two targets at least, not {len(inputs)} with {len(distinct)}."
        )
    base = None if offsets is None else offsets.float()
    wanted = targets.float() if base is None else targets.float() - base
    order = distinct[torch.randperm(len(distinct), generator=torch.Generator().manual_seed(seed))]
    judges = torch.isin(groups, order[: max(len(order) // 10, 1)])
    left_out = _Moments.of(inputs[judges], wanted[judges])
    judged = judges.nonzero().flatten()[:_MOST_JUDGES]
    everything = _Moments.of(inputs, wanted)
    best, chosen = -1.0, penalties[-1]
    for penalty, found in (everything - left_out).solutions(penalties):
        queries = found(inputs[judged].float())
        queries = F.normalize(queries if base is None else queries + base[judged], dim=-1)
        rank = first_right_ranks((queries @ targets.float().T).numpy(), groups[judged].numpy(), groups.numpy())
        score = float(np.mean(1 / rank))
        if score >= best:  # of equals the most cautious
            best, chosen = score, penalty
    return next(iter(everything.solutions((chosen,))))[1]


@dataclass
class _Moments:
    """Sums in float64 that determine a ridge regression, so that no copy of all rows is made in that precision."""

    rows: int
    inputs: torch.Tensor
    outputs: torch.Tensor
    gram: torch.Tensor
    cross: torch.Tensor

    @classmethod
    def of(cls, inputs: torch.Tensor, outputs: torch.Tensor) -> _Moments:
        sums = [torch.zeros(size, dtype=torch.float64) for size in (inputs.shape[1], outputs.shape[1])]
        gram, cross = (torch.zeros(inputs.shape[1], width, dtype=torch.float64) for width in map(len, sums))
        for start in range(0, len(inputs), _PIECE):
            x, y = (rows[start : start + _PIECE].double() for rows in (inputs, outputs))
            sums[0] += x.sum(dim=0)
            sums[1] += y.sum(dim=0)
            gram.addmm_(x.T, x)
            cross.addmm_(x.T, y)
        return cls(len(inputs), *sums, gram, cross)

    def __sub__(self, other: _Moments) -> _Moments:
        return _Moments(*(getattr(self, name) - getattr(other, name) for name in self.__dataclass_fields__))

    def solutions(self, penalties: tuple[float, ...]) -> Iterator[tuple[float, RidgeMap]]:
        """Yields the map for every penalty."""
        mean_in, mean_out = self.inputs / self.rows, self.outputs / self.rows
        gram = self.gram - self.rows * torch.outer(mean_in, mean_in)
        cross = self.cross - self.rows * torch.outer(mean_in, mean_out)
        size = float(gram.diagonal().mean()) or 1.0
        for penalty in penalties:
            ridge = gram + penalty * size * torch.eye(len(gram), dtype=gram.dtype)
            weight = torch.cholesky_solve(cross, torch.linalg.cholesky(ridge)).T
            yield penalty, RidgeMap(weight.float(), (mean_out - weight @ mean_in).float(), penalty)


# -- the readout ------------------------------------------------------------------------------------------------------
@dataclass
class ReadContexts:
    """Hidden states of text contexts at [RET] before any training, with their relevant vectors.

    Args:
        states (`(pairs, layers * width)`): hidden states at [RET], the read layers side by side.
        targets (`(pairs, embedding width)`): right vectors, normalised.
        groups (`(pairs,)`): equal ones are right for each other.
        is_image (`(pairs,)`): whether the right vector is an image's.
    """

    states: torch.Tensor
    targets: torch.Tensor
    groups: torch.Tensor
    is_image: torch.Tensor

    def moments(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the mean and the standard deviation of each dimension of the states; some are hundreds of times
        larger than others."""
        return self.states.mean(dim=0), self.states.std(dim=0).clamp(min=1e-6)


def fit_readout(read: ReadContexts, seed: int) -> RidgeMap:
    """Solves the readout on standardised states, where one penalty fits all dimensions, and returns a map of the plain
    states.

    Args:
        read: what is fitted.
        seed: seed of the folds that choose the penalty.
    """
    mean, spread = read.moments()
    found = fit_ridge((read.states - mean) / spread, read.targets, read.groups, seed=seed)
    return from_standard(found, mean, spread)


def from_standard(found: RidgeMap, mean: torch.Tensor, spread: torch.Tensor) -> RidgeMap:
    """Convert a map of standardized states to a map of the original states."""
    weight = found.weight / spread
    return RidgeMap(weight, found.bias - weight @ mean, found.penalty)


@torch.no_grad()
def read_contexts(
    model: UniMuRModel, rows: Dataset, collator: DualAlignmentCollator, with_images: bool = False
) -> ReadContexts:
    """Runs all text contexts once, and those with an image if asked for, and fills the collator's store of
    prefixes."""
    states, targets, owners, kinds = [], [], [], []
    # Rows of like length together, and one part a batch, so that states come in the order of the rows.
    known = [row for row in all_rows(rows) if with_images or row["visual_features"] is None]
    known.sort(key=lambda row: len(render_turns(collator.processor, row["turns"])))
    shown = [row for row in known if row["visual_features"] is not None]
    known = [row for row in known if row["visual_features"] is None]
    batches = [some[at : at + _CONTEXTS] for some in (known, shown) for at in range(0, len(some), _CONTEXTS)]
    with _states_at_ret(model) as states_of:
        for some in tqdm(batches, desc="Reading contexts"):
            batch = collator(some)
            read = states_of(batch)
            for kind in ("text", "image"):
                features = batch.get(f"target_{kind}_features")
                if features is not None:
                    kept = batch.get(f"target_{kind}_mask", torch.ones(len(some), dtype=torch.bool))
                    states.append(read[kept])
                    targets.append(F.normalize(features[kept].float(), dim=-1))
                    owners.append(batch["target_ids"][kept])
                    kinds.append(torch.full((int(kept.sum()),), kind == "image"))
    return ReadContexts(*map(torch.cat, (states, targets, owners, kinds)))


@torch.no_grad()
def read_turns(model: UniMuRModel, contexts: Sequence[list[str]], collator: DualAlignmentCollator) -> torch.Tensor:
    """Returns the hidden states at [RET] of text contexts, given as turns: `(contexts, layers * width)`."""
    rows = [{"turns": turns, "visual_features": None} for turns in contexts]
    with _states_at_ret(model) as states_of:
        return embed_by_length(
            rows,
            lambda some: states_of(collator.contexts(some)),
            _CONTEXTS,
            lambda row: len(render_turns(collator.processor, row["turns"])),
            "Reading contexts",
        )


@contextmanager
def _states_at_ret(model: UniMuRModel) -> Iterator[Callable[[dict], torch.Tensor]]:
    """Gives a function from a batch to its hidden states at [RET] `(contexts, layers * width)`, float32 on the CPU."""
    caught: dict[int, torch.Tensor] = {}
    hooks = [
        layer.register_forward_pre_hook(lambda _, inputs, number=number: caught.update({number: inputs[0]}))
        for number, layer in enumerate(model.heads.readout_maps)
    ]
    equal_calls, model.equal_calls = model.equal_calls, True

    def states_of(batch: dict) -> torch.Tensor:
        model.get_readout_features(**{key: batch[key].to(model.device) for key in _INPUTS if key in batch})
        return torch.cat([caught[number].mean(dim=1).float().cpu() for number in range(len(hooks))], dim=1)

    try:
        yield states_of
    finally:
        model.equal_calls = equal_calls
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def current_readout(model: UniMuRModel) -> RidgeMap:
    """Returns the model's readout maps as one linear map of the concatenated layers."""
    maps = model.heads.readout_maps
    weight = torch.cat([layer.weight for layer in maps], dim=1).float().cpu()
    return RidgeMap(weight, sum(layer.bias for layer in maps).float().cpu(), 0.0)


@torch.no_grad()
def set_readout(model: UniMuRModel, found: RidgeMap) -> None:
    """Set the readout maps to one linear map of the concatenated layers."""
    first = 0
    for number, layer in enumerate(model.heads.readout_maps):
        layer.weight.copy_(found.weight[:, first : first + layer.in_features])
        layer.bias.copy_(found.bias if number == 0 else torch.zeros_like(layer.bias))
        first += layer.in_features


def sharpen_readout(read: ReadContexts, start: RidgeMap, seed: int, steps: int = _STEPS) -> RidgeMap:
    """Refine a closed-form map with the paper's matching losses at a fixed temperature.

    It works in standardised states: single dimensions of a language model's hidden states are hundreds of times larger
    than others, and one learning rate would fit none of them.

    Args:
        read: contexts and their right vectors; texts compete with texts and images with images.
        start: the map to begin with; it is not changed.
        seed: seed of the batches.
        steps: number of steps of AdamW, 512 contexts each.

    Returns:
        `RidgeMap`: from plain states, with the penalty of the start.
    """
    mean, spread = read.moments()
    standard, before = (read.states - mean) / spread, start(read.states)
    change = torch.zeros_like(start.weight).requires_grad_()
    bias = torch.zeros_like(start.bias).requires_grad_()
    optimizer = torch.optim.AdamW([change, bias], lr=_LEARNING_RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    generator, scale = torch.Generator().manual_seed(seed), torch.tensor(_SCALE)
    kinds = [rows for rows in (read.is_image.logical_not(), read.is_image) if bool(rows.any())]
    parts = [rows.nonzero().flatten() for rows in kinds]
    with torch.enable_grad():
        for _ in trange(steps, desc="Sharpening the readout"):
            losses = []
            for part in parts:
                rows = part[torch.randperm(len(part), generator=generator)[:_BATCH]]
                queries = F.normalize(before[rows] + standard[rows] @ change.T + bias, dim=-1)
                losses.append(contrastive_loss(queries, read.targets[rows], scale, read.groups[rows]))
            optimizer.zero_grad()
            torch.stack(losses).sum().backward()
            optimizer.step()
            schedule.step()
    turned = from_standard(RidgeMap(change.detach(), bias.detach(), start.penalty), mean, spread)
    return RidgeMap(start.weight + turned.weight, start.bias + turned.bias, start.penalty)


def refit_readout(
    model: UniMuRModel,
    rows: Dataset,
    collator: DualAlignmentCollator,
    judge: Callable[[], dict[str, float]],
    seed: int,
    steps: int = 400,
) -> dict[str, float]:
    """Keeps the best of three readouts on the trained [RET] and image map: the trained maps, the ridge solution over
    all contexts, and the ridge solution sharpened by the matching losses.

    One learning rate fits no dimension of a language model's hidden states, and a short run leaves the maps far from
    their best; [RET] and the image map are what it trains well.

    Args:
        model: trained, its target maps identical.
        rows: contexts with their right vectors; they may be many more than were trained on, since each is read once.
        collator: the run's; what is read here is not kept.
        judge: recalls on the development split.
        seed: seed of the folds and of the batches.
        steps: number of steps of sharpening.

    Returns:
        `dict`: the mean of the recalls of each readout; the model has the best one.
    """
    trained = {name: value.clone() for name, value in model.heads.readout_maps.state_dict().items()}
    found = {"trained": _mean(judge())}
    once = copy.copy(collator)
    once.prefix_store = None
    read = read_contexts(model, rows, once, with_images=True)
    ridge = fit_readout(read, seed)
    maps: dict[str, RidgeMap] = {"closed_form": ridge, "sharpened": sharpen_readout(read, ridge, seed, steps)}
    for name, each in maps.items():
        set_readout(model, each)
        found[name] = _mean(judge())
    best = max(found, key=found.get)
    logger.info("Readouts, mean recall on the development split: %s; kept: %s", found, best)
    if best == "trained":
        model.heads.readout_maps.load_state_dict(trained)
    else:
        set_readout(model, maps[best])
    return found


def _mean(figures: dict[str, float]) -> float:
    return float(np.mean(list(figures.values())))


# -- the image map --------------------------------------------------------------------------------------------------
@torch.no_grad()
def start_image_map(model: UniMuRModel, rows: Dataset, collator: DualAlignmentCollator, seed: int) -> float:
    """Sets the image map by ridge regression from an image's features to the mean input vector of its caption's
    tokens, stretched around the mean word vector to the norm of word vectors.

    A language model reads such a vector as a blur of those words, before a single step of training; from random
    weights a small language model does not learn to look at its images within hundreds of steps.

    Args:
        model: before training.
        rows: rows of `context_rows`, or alike; those with a caption are read.
        collator: the run's.
        seed: seed of the rows that choose the penalty.

    Returns:
        `float`: the penalty that was chosen.

    Raises:
        ValueError: when no row has a caption.
    """
    table = model.get_input_embeddings().weight
    captioned = [row for row in all_rows(rows) if row["caption"]]
    if not captioned:
        raise ValueError("The image map starts from captions, and no row has one: leave closed_form_start out.")
    features = torch.stack([row["caption_visual_features"] for row in captioned]).float()
    if model.heads.reads_patches:  # the map is linear: of the mean of patches it is the mean
        features = features[:, 1:].mean(dim=1)
    lines = collator.processor.tokenizer([row["caption"] for row in captioned], add_special_tokens=False)["input_ids"]
    words = [table[torch.tensor(line[: collator.max_caption_tokens])].float().mean(dim=0) for line in lines]
    groups = torch.stack([torch.as_tensor(row["target_ids"]) for row in captioned])
    found = fit_ridge(features, F.normalize(torch.stack(words).cpu(), dim=-1), groups, seed=seed)
    mapped, mean_word = found(features), model.input_scale * table.float().mean(dim=0).cpu()
    middle = mapped.mean(dim=0)
    stretch = model.input_scale * table.float().norm(dim=1).mean().cpu() / (mapped - middle).norm(dim=1).mean()
    # Each input vector of an image starts as the same one.
    parts = model.heads.visual_map.out_features // model.config.language_width
    model.heads.visual_map.weight.copy_((stretch * found.weight).repeat(parts, 1))
    model.heads.visual_map.bias.copy_((stretch * (found.bias - middle) + mean_word).repeat(parts))
    logger.info("Image map: from %d captions, penalty %g, stretched %.2f times", len(words), found.penalty, stretch)
    return found.penalty
