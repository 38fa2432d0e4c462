"""Fitting the anchored query on vectors that are read once: its weights, its correction, and the gate on it.

The frozen models run once over the dialogues; what is trained afterwards sees vectors alone and takes seconds to
minutes on a laptop.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from ..evaluation.retrieval_metrics import first_right_ranks
from ..modeling_unimur import UniMuRModel
from ..query_anchor_unimur import UniMuRQueryAnchor
from .collators import DualAlignmentCollator
from .training_rows import all_rows

_BATCH = 32
# Weights to choose from; that of the whole dialogue is 1. Zeros everywhere are the dual encoder alone.
_WEIGHTS = {
    "last_weight": (0.0, 0.25, 0.5, 0.75, 1.0),
    "image_weight": (0.0, 0.15, 0.3, 0.5),
    "readout_weight": (0.0, 0.25, 0.5, 0.7, 1.0, 1.5),
}
_INPUTS = ("input_ids", "attention_mask", "visual_features")


@dataclass
class QuerySet:
    """Dialogues of one kind as the vectors that make their queries, and what is right for each.

    Args:
        name: of the kind.
        readout, whole, last, image (`(rows, width)`), statistics (`(rows, 3)`): inputs of `UniMuRQueryAnchor`.
        targets (`(rows, width)`): right vectors, normalised.
        groups (`(rows,)`): rows with equal ones are right for each other.
    """

    name: str
    readout: torch.Tensor
    whole: torch.Tensor
    last: torch.Tensor
    image: torch.Tensor
    statistics: torch.Tensor
    targets: torch.Tensor
    groups: torch.Tensor

    def __len__(self) -> int:
        return len(self.readout)

    def rows(self, numbers: torch.Tensor) -> QuerySet:
        """Some of the rows."""
        return QuerySet(self.name, *(getattr(self, field.name)[numbers] for field in fields(self)[1:]))

    @property
    def inputs(self) -> tuple[torch.Tensor, ...]:
        """The arguments of `UniMuRQueryAnchor`."""
        return self.readout, self.whole, self.last, self.image, self.statistics

    def mrr(self, queries: torch.Tensor) -> float:
        """Mean reciprocal rank in percent of the right targets among all distinct ones."""
        _, first = np.unique(self.groups.numpy(), return_index=True)
        scores = queries.float() @ self.targets[first].T
        ranks = first_right_ranks(scores.numpy(), self.groups.numpy(), self.groups[first].numpy())
        return 100 * float(np.mean(1 / ranks))


@torch.no_grad()
def read_queries(
    model: UniMuRModel, name: str, rows: Dataset, collator: DualAlignmentCollator, kind: str = "text"
) -> QuerySet:
    """Runs the frozen models over dialogues once.

    Args:
        model: with an anchored query; its readout is trained.
        name: of the kind of dialogue.
        rows: as for `DualAlignmentCollator`; those without a target of the kind are left out.
        collator: the run's.
        kind: of the targets, `text` or `image`.

    Raises:
        ValueError: the model has no anchored query, or no row has a target of the kind.
    """
    if model.heads.query_anchor is None:
        raise ValueError("This model has no anchored query: set query_anchor='encoder' in its configuration.")
    feature = f"target_{kind}_features"
    known = [row for row in all_rows(rows) if row[feature] is not None]
    if not known:
        raise ValueError(f"No row of {name} has a target of kind {kind!r}.")
    order = sorted(range(len(known)), key=lambda number: sum(map(len, known[number]["turns"])))
    caught: list[tuple] = []
    hook = model.heads.query_anchor.register_forward_pre_hook(
        lambda _, inputs: caught.append(tuple(value.float().cpu() for value in inputs))
    )
    targets, groups = [], []
    try:
        for start in tqdm(range(0, len(order), _BATCH), desc=f"Reading {name}"):
            batch = collator([known[number] for number in order[start : start + _BATCH]])
            inputs = {
                key: value for key, value in batch.items() if key in _INPUTS or key.startswith(("anchor", "turn"))
            }
            model.get_multimodal_features(**{key: value.to(model.device) for key, value in inputs.items()})
            targets.append(F.normalize(batch[feature].float(), dim=-1))
            groups.append(batch["target_ids"])
    finally:
        hook.remove()
    back = torch.tensor(order).argsort()
    vectors = [torch.cat(some)[back] for some in (*zip(*caught, strict=True), targets, groups)]
    return QuerySet(name, *vectors)


def mean_mrr(anchor: UniMuRQueryAnchor, sets: Sequence[QuerySet]) -> float:
    """The mean over kinds of the mean reciprocal rank, in percent."""
    with torch.no_grad():
        return float(np.mean([some.mrr(anchor(*some.inputs).query) for some in sets]))


@torch.no_grad()
def fit_weights(
    anchor: UniMuRQueryAnchor,
    sets: Sequence[QuerySet],
    names: Sequence[str] = tuple(_WEIGHTS),
    no_set_below: bool = False,
) -> dict:
    """Sets the weights of an anchored query to the best of a grid by the mean reciprocal rank over the sets.

    The grid holds the encoder alone, so the result is never below it on these sets; of equal weights the smaller ones
    are taken.

    Args:
        anchor: its weights are set; the rest stays as it is.
        sets: held-out dialogues that neither the readout nor the correction was fitted on.
        names: of the weights that are chosen; `whole_weight` is 1.
        no_set_below: whether weights are left out that put any single set below the encoder alone.

    Returns:
        `dict`: the chosen weights, the merit of the encoder alone (`encoder`) and that of the result (`chosen`).
    """
    anchor.whole_weight.fill_(1.0)
    has_images = any(bool(some.image.any()) for some in sets)
    names = [name for name in names if getattr(anchor, name, None) is not None]
    grids = [_WEIGHTS[name] if name != "image_weight" or has_images else (0.0,) for name in names]
    every: dict[tuple[float, ...], list[float]] = {}
    for values in itertools.product(*grids):
        for name, value in zip(names, values, strict=True):
            getattr(anchor, name).fill_(value)
        every[values] = [some.mrr(anchor(*some.inputs).query) for some in sets]
    alone = every[tuple(0.0 for _ in names)]
    if no_set_below:
        every = {
            values: found
            for values, found in every.items()
            if all(mine >= theirs for mine, theirs in zip(found, alone, strict=True))
        }
    merits = {values: float(np.mean(found)) for values, found in every.items()}
    best = max(merits, key=lambda values: (merits[values], -sum(values)))
    for name, value in zip(names, best, strict=True):
        getattr(anchor, name).fill_(value)
    return {
        **dict(zip(names, best, strict=True)),
        "encoder": merits[tuple(0.0 for _ in names)],
        "chosen": merits[best],
    }


__all__ = ["QuerySet", "fit_weights", "mean_mrr", "read_queries"]
