"""Fits the weights, the correction and the gate of the anchored query on precomputed vectors.

The frozen models run once over the dialogues; what is trained afterwards sees vectors alone and takes seconds to
minutes on a laptop.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import Dataset
from tqdm.auto import tqdm, trange

from ..contrastive_loss import contrastive_loss
from ..data.shards import read_shard, write_shard
from ..evaluation.metrics import first_right_ranks
from ..loading import processor_fingerprint
from ..modeling_unimur import UniMuRModel, UniMuRQueryAnchor, gate_features
from ..processing_unimur import ANCHOR_ROWS
from .collators import DualAlignmentCollator, all_rows
from .frozen_features import fingerprint

_BATCH = 32
# Of the correction: factor on the cosines, rows of each kind a step, learning rate, steps between two looks at the
# held-out sets. Chosen on held-out chats and built dialogues.
_SCALE, _ROWS, _RATE, _EVERY = 20.0, 256, 3e-4, 20
# Share of the gain over the encoder that the chosen weights keep.
_WEIGHT_SHARE = 0.97
# Values that a weight of the gate takes, and what a change must gain in points of the mean reciprocal rank.
_GATE_BIASES = (-3.0, -2.0, -1.4, -0.6, 0.0, 0.8, 2.0, 4.0)
_GATE_WEIGHTS = (-2.0, -1.0, -0.5, 0.5, 1.0, 2.0)
_GATE_GAIN = 0.1
# The most closed gate is taken that keeps this share of what the correction can gain on kinds that were left out: its
# gain there is flat, and kinds that nobody thought of are further away than these.
_GATE_SHARE = 0.75
# Weights to choose from; that of the whole dialogue is 1. Zeros everywhere are the dual encoder alone.
_WEIGHTS = {
    "last_weight": (0.0, 0.25, 0.5, 0.75, 1.0),
    "image_weight": (0.0, 0.15, 0.3, 0.5),
    "readout_weight": (0.0, 0.25, 0.5, 0.7, 1.0, 1.5),
}
_INPUTS = ("input_ids", "attention_mask", "visual_features")
_VECTORS = ("readout", "whole", "last", "image", "statistics")


@dataclass
class QuerySet:
    """Dialogues of one kind as the vectors that their queries are made of, and their relevant targets.

    Args:
        name: of the kind.
        readout, whole, last, image (`(rows, width)`), statistics (`(rows, 3)`): inputs of `UniMuRQueryAnchor`.
        targets (`(rows, width)`): right vectors, normalised.
        groups (`(rows,)`): rows with equal ones are right for each other.
        kind: of the targets, `text` or `image`.
    """

    name: str
    readout: torch.Tensor
    whole: torch.Tensor
    last: torch.Tensor
    image: torch.Tensor
    statistics: torch.Tensor
    targets: torch.Tensor
    groups: torch.Tensor
    kind: str = "text"

    def __len__(self) -> int:
        return len(self.readout)

    def rows(self, numbers: torch.Tensor) -> QuerySet:
        """Returns some of the rows."""
        return replace(self, **{name: getattr(self, name)[numbers] for name in (*_VECTORS, "targets", "groups")})

    @property
    def inputs(self) -> tuple[torch.Tensor, ...]:
        """The arguments of `UniMuRQueryAnchor`."""
        return self.readout, self.whole, self.last, self.image, self.statistics

    def mrr(self, queries: torch.Tensor) -> float:
        """Returns the mean reciprocal rank, in percent, of the relevant targets among all distinct ones."""
        _, first = np.unique(self.groups.numpy(), return_index=True)
        scores = queries.float() @ self.targets[first].T
        ranks = first_right_ranks(scores.numpy(), self.groups.numpy(), self.groups[first].numpy())
        return 100 * float(np.mean(1 / ranks))


@torch.no_grad()
def read_queries(
    model: UniMuRModel, name: str, rows: Dataset, collator: DualAlignmentCollator, folder: Path | None = None
) -> list[QuerySet]:
    """Run the frozen models over dialogues once and keep the vectors.

    Args:
        model: with an anchored query; its readout is trained.
        name: of the kind of dialogue.
        rows: as for `DualAlignmentCollator`.
        collator: the run's.
        folder (*optional*): keeps the vectors for the next run, by the weights of the model, what the processor makes
            of a dialogue, and the dialogues. Dialogues with images are always read.

    Returns:
        `list[QuerySet]`: the dialogues with a right text, then those with a right image; none that is empty.

    Raises:
        ValueError: the model has no anchored query.
    """
    if model.heads.query_anchor is None:
        raise ValueError("This model has no anchored query: set query_anchor='encoder' in its configuration.")
    known = sorted(all_rows(rows), key=lambda row: sum(map(len, row["turns"])))
    vectors = None
    if any(row["visual_features"] is not None for row in known):
        folder = None
    if folder is not None:
        read = [processor_fingerprint(collator.processor), collator.max_context_tokens, collator.keep_context]
        key = hashlib.sha256(json.dumps([read, [row["turns"] for row in known]]).encode())
        with paper_query(model):  # its own weights do not count
            place = folder / fingerprint(model) / f"{key.hexdigest()[:32]}.safetensors"
        vectors = read_shard(place, lambda tensors: {name: tensors[name].clone() for name in _VECTORS})
    if vectors is None:
        vectors = _run(model, name, known, collator)
        if folder is not None:
            write_shard(place.parent, place.stem, vectors)
    found = []
    for kind in ("text", "image"):
        numbers = [number for number, row in enumerate(known) if row[f"target_{kind}_features"] is not None]
        if numbers:
            targets = torch.stack([known[number][f"target_{kind}_features"] for number in numbers]).float()
            groups = torch.stack([known[number]["target_ids"] for number in numbers])
            parts = [vectors[field][numbers] for field in _VECTORS]
            found.append(QuerySet(name, *parts, F.normalize(targets, dim=-1), groups, kind))
    return found


@contextmanager
def paper_query(model: UniMuRModel) -> Iterator[None]:
    """Makes the readout alone the query, as in the paper. The anchored query is fitted on top of a trained readout."""
    anchor, model.heads.query_anchor = model.heads.query_anchor, None
    kind, model.config.query_anchor = model.config.query_anchor, "none"
    try:
        yield
    finally:
        model.heads.query_anchor, model.config.query_anchor = anchor, kind


def _run(model: UniMuRModel, name: str, known: list[dict], collator: DualAlignmentCollator) -> dict[str, torch.Tensor]:
    caught: list[tuple] = []
    hook = model.heads.query_anchor.register_forward_pre_hook(
        lambda _, inputs: caught.append(tuple(value.float().cpu() for value in inputs))
    )
    try:
        for start in tqdm(range(0, len(known), _BATCH), desc=f"Reading {name}"):
            batch = collator(known[start : start + _BATCH])
            inputs = {key: value for key, value in batch.items() if key in (*_INPUTS, *ANCHOR_ROWS)}
            model.get_multimodal_features(**{key: value.to(model.device) for key, value in inputs.items()})
    finally:
        hook.remove()
    return {field: torch.cat(parts) for field, parts in zip(_VECTORS, zip(*caught, strict=True), strict=True)}


def merit_of(figures: Sequence[float]) -> float:
    """Combines mean reciprocal ranks of several kinds by their geometric mean, in which a point of a hard kind counts
    more than a point of an easy one."""
    return float(np.exp(np.mean(np.log(np.maximum(figures, 1e-3)))))


def mean_mrr(anchor: UniMuRQueryAnchor, sets: Sequence[QuerySet]) -> float:
    """Returns the mean reciprocal rank over sets, in percent, combined by `merit_of`."""
    with torch.no_grad():
        return merit_of([some.mrr(anchor(*some.inputs).pooler_output) for some in sets])


@torch.no_grad()
def fit_weights(
    anchor: UniMuRQueryAnchor,
    sets: Sequence[QuerySet],
    no_set_below: bool = False,
) -> dict:
    """Sets the weights of an anchored query to the best of a grid by the mean reciprocal rank over the sets.

    The grid holds the encoder alone, so the result is never below it on these sets. The best of a grid is a plateau:
    the smallest weights that keep 97 % of the gain over the encoder are taken.

    Args:
        anchor: its weights are set; the rest stays as it is.
        sets: held-out dialogues that neither the readout nor the correction was fitted on.
        no_set_below: whether weights are left out that put any single set below the encoder alone.

    Returns:
        `dict`: the chosen weights, the merit of the encoder alone (`encoder`) and that of the result (`chosen`).
    """
    anchor.whole_weight.fill_(1.0)
    has_images = any(bool(some.image.any()) for some in sets)
    names = [name for name in _WEIGHTS if getattr(anchor, name, None) is not None]
    if not has_images:  # its weight stays as it is
        names = [name for name in names if name != "image_weight"]
    grids = [_WEIGHTS[name] for name in names]
    every: dict[tuple[float, ...], list[float]] = {}
    for values in itertools.product(*grids):
        for name, value in zip(names, values, strict=True):
            getattr(anchor, name).fill_(value)
        every[values] = [some.mrr(anchor(*some.inputs).pooler_output) for some in sets]
    alone = every[tuple(0.0 for _ in names)]
    if no_set_below:
        every = {
            values: found
            for values, found in every.items()
            if all(mine >= theirs for mine, theirs in zip(found, alone, strict=True))
        }
    merits = {values: merit_of(found) for values, found in every.items()}
    start = merits[tuple(0.0 for _ in names)]
    enough = start + _WEIGHT_SHARE * (max(merits.values()) - start)
    best = min((values for values in merits if merits[values] >= enough), key=lambda v: (sum(v), -merits[v]))
    for name, value in zip(names, best, strict=True):
        getattr(anchor, name).fill_(value)
    return {
        **dict(zip(names, best, strict=True)),
        "encoder": start,
        "chosen": merits[best],
    }


def fit_correction(
    anchor: UniMuRQueryAnchor, train: Sequence[QuerySet], dev: Sequence[QuerySet], seed: int, steps: int = 160
) -> float:
    """Trains the network of the correction by InfoNCE, one batch of each kind a step, and keeps its best state on the
    held-out sets.

    Args:
        anchor: with `query_correction="mlp"`; its weights are those of `fit_weights`; that of the readout is
            trained too.
        train: kinds of dialogue.
        dev: held-out dialogues of them.
        seed: of the batches, of the network's start and of its dropout.
        steps: at most.

    Returns:
        `float`: the mean reciprocal rank on the held-out sets, in percent.
    """
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    anchor.correction[0].reset_parameters()
    trained = [anchor.readout_weight, *anchor.correction.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=_RATE, weight_decay=0.0)
    scale, best, kept = torch.tensor(_SCALE), -1.0, {}
    for step in trange(steps + 1, desc="Fitting the correction", leave=False):
        if step % _EVERY == 0 or step == steps:
            merit = mean_mrr(anchor.eval(), dev)
            if merit > best:
                best, kept = merit, copy.deepcopy(anchor.state_dict())
        if step == steps:
            break
        anchor.train()
        with torch.enable_grad():
            losses = []
            for some in train:
                rows = some.rows(torch.randint(len(some), (_ROWS,), generator=generator))
                losses.append(contrastive_loss(anchor(*rows.inputs).pooler_output, rows.targets, scale, rows.groups))
            optimizer.zero_grad()
            torch.stack(losses).sum().backward()
            optimizer.step()
    anchor.load_state_dict(kept)
    anchor.eval()
    return best


@torch.no_grad()
def fit_gate(
    anchor: UniMuRQueryAnchor,
    left_out: Sequence[tuple[UniMuRQueryAnchor, QuerySet]],
    known: Sequence[tuple[UniMuRQueryAnchor, QuerySet]] = (),
) -> dict:
    """Sets the gate on the correction to the best of a search by the mean reciprocal rank over the judges.

    The losses of a short training say little about a gate, since a larger correction spreads the cosines whether it is
    right or wrong; so the ranks decide. The bias is chosen first, by the kinds that were left out alone; then one
    weight after the other where it gains over all.

    Args:
        anchor: its gate is set.
        left_out: pairs of an anchor that was fitted without a kind of dialogue, and dialogues of that kind.
        known: the same of kinds that it was fitted on.

    Returns:
        `dict`: `bias`, `weights`, and the mean reciprocal rank of every kind by the anchor alone, without a gate and
        with it.
    """
    parts = []
    for fitted, some in [*left_out, *known]:
        found = fitted(*some.inputs)
        features = gate_features(found.readout_embeds, found.anchor_embeds, some.whole, some.last, some.statistics)
        parts.append((some, found, features))
    every = torch.cat([features for _, _, features in parts])
    mean, spread = every.mean(dim=0), every.std(dim=0).clamp(min=1e-3)

    def merits(bias: float, weights: Sequence[float]) -> list[float]:
        values = torch.tensor(weights)
        gates = [torch.sigmoid((features - mean) / spread @ values + bias) for _, _, features in parts]
        return [
            some.mrr(F.normalize(found.anchor_embeds + gate[:, None] * found.correction_embeds, dim=-1))
            for gate, (some, found, _) in zip(gates, parts, strict=True)
        ]

    width = every.shape[1]
    weights, scores = [0.0] * width, {bias: merits(bias, [0.0] * width) for bias in _GATE_BIASES}
    by_left_out = {bias: merit_of(each[: len(left_out)] or each) for bias, each in scores.items()}
    closed = merit_of(merits(-1e4, [0.0] * width)[: len(left_out) or None])
    enough = closed + _GATE_SHARE * (max(by_left_out.values()) - closed)
    bias = min(bias for bias, merit in by_left_out.items() if merit >= enough)
    best = merit_of(scores[bias])
    for number in [*range(width), *range(width)]:
        for value in _GATE_WEIGHTS:
            tried = [*weights[:number], value, *weights[number + 1 :]]
            merit = merit_of(merits(bias, tried))
            if merit > best + _GATE_GAIN:
                best, weights = merit, tried
    anchor.feature_mean.copy_(mean)
    anchor.feature_spread.copy_(spread)
    anchor.gate.weight.copy_(torch.tensor([weights]))
    anchor.gate.bias.fill_(bias)
    titles = [f"{some.name}, {some.kind}" for _, some in [*left_out, *known]]
    names = [title + ", left out" * (number < len(left_out)) for number, title in enumerate(titles)]
    return {
        "bias": bias,
        "weights": weights,
        "anchor": dict(zip(names, merits(-1e4, [0.0] * width), strict=True)),
        "without_gate": dict(zip(names, merits(1e4, [0.0] * width), strict=True)),
        "with_gate": dict(zip(names, merits(bias, weights), strict=True)),
    }


def fit_query_anchor(
    anchor: UniMuRQueryAnchor, train: Sequence[QuerySet], dev: Sequence[QuerySet], seed: int, steps: int = 160
) -> dict:
    """Fit the weights, the correction and the gate of an anchored query.

    The gate is fitted by leaving kinds of dialogue out: for each kind a correction is fitted on the others, and the
    gate must rank the left-out dialogues well. So a kind that was never trained on is not drawn away from the anchor.

    Args:
        anchor: is fitted.
        train: kinds of dialogue, text replies or images.
        dev: held-out dialogues of them; of the same names.
        seed: of the correction.
        steps: of the correction.

    Returns:
        `dict`: `weights` of `fit_weights`, `corrected` of `fit_correction` (with a network), and `gate` of `fit_gate`
        (with a gate).
    """
    anchor.eval()
    with torch.no_grad():
        for tensor, value in anchor.initial_values():
            tensor.fill_(value)
    gate, anchor.gate = anchor.gate, None
    try:
        found: dict = {"weights": fit_weights(anchor, dev)}
        judges: list[tuple[UniMuRQueryAnchor, QuerySet]] = []
        names = list(dict.fromkeys(some.name for some in train))
        if gate is not None and anchor.correction is not None and len(names) > 1:
            for name in names:
                without = copy.deepcopy(anchor)
                known, left_out = ([some for some in dev if (some.name == name) == out] for out in (False, True))
                fit_correction(without, [some for some in train if some.name != name], known, seed, steps)
                judges += [(without, some) for some in left_out]
        if anchor.correction is not None:
            found["corrected"] = fit_correction(anchor, train, dev, seed, steps)
        ungated = copy.deepcopy(anchor)
    finally:
        anchor.gate = gate
    if gate is not None:
        found["gate"] = fit_gate(anchor, judges, [(ungated, some) for some in dev])
    return found
