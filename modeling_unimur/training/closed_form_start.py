"""A start in closed form: what [RET] shows before any training, mapped to the right vectors by ridge regression."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from ..evaluation.systems.ridge import RidgeMap, fit_ridge
from ..modeling_unimur import UniMuRModel
from .collators import DualAlignmentCollator, render_turns
from .training_rows import all_rows

_BATCH = 64
_INPUTS = ("input_ids", "attention_mask", "prefix_states", "visual_features")


@dataclass
class ReadContexts:
    """What [RET] shows of text contexts before any training, and what is right for each.

    Args:
        states (`(pairs, layers * width)`): hidden states at [RET], the read layers side by side.
        targets (`(pairs, embedding width)`): right vectors, normalised.
        groups (`(pairs,)`): equal ones are right for each other.
        is_image (`(pairs,)`): whether the right vector is a picture's.
    """

    states: torch.Tensor
    targets: torch.Tensor
    groups: torch.Tensor
    is_image: torch.Tensor

    def moments(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of each dimension of the states; some are hundreds of times larger."""
        return self.states.mean(dim=0), self.states.std(dim=0).clamp(min=1e-6)


def start_in_closed_form(
    model: UniMuRModel, rows: Dataset, collator: DualAlignmentCollator, seed: int, with_pictures: bool = False
) -> float:
    """Sets the readout maps to the ridge solution over all contexts, and fills the collator's store of prefixes.

    A context with a right text and a right picture counts once for each.

    Args:
        model: before training, its target maps identical.
        rows: of `context_rows`, or alike.
        collator: the run's.
        seed: of the folds that choose the penalty.
        with_pictures: whether contexts that show a picture count; not while the map before it is random.

    Returns:
        `float`: the penalty that was chosen.
    """
    found = fit_readout(read_contexts(model, rows, collator, with_pictures), seed)
    set_readout(model, found)
    return found.penalty


def fit_readout(read: ReadContexts, seed: int) -> RidgeMap:
    """The ridge solution in standardised states, as a map from plain ones: one penalty then fits all dimensions.

    Args:
        read: what is fitted.
        seed: of the folds that choose the penalty.
    """
    mean, spread = read.moments()
    found = fit_ridge((read.states - mean) / spread, read.targets, read.groups, seed=seed)
    return from_standard(found, mean, spread)


def from_standard(found: RidgeMap, mean: torch.Tensor, spread: torch.Tensor) -> RidgeMap:
    """A map of standardised states as one of plain states."""
    weight = found.weight / spread
    return RidgeMap(weight, found.bias - weight @ mean, found.penalty)


@torch.no_grad()
def read_contexts(
    model: UniMuRModel, rows: Dataset, collator: DualAlignmentCollator, with_pictures: bool = False
) -> ReadContexts:
    """Runs all text contexts once, and those with a picture if asked for; fills the collator's store of prefixes."""
    states, targets, owners, kinds = [], [], [], []
    heads, caught = model.heads, {}
    hooks = [
        layer.register_forward_pre_hook(lambda _, inputs, number=number: caught.update({number: inputs[0]}))
        for number, layer in enumerate(heads.readout_maps)
    ]
    # Rows of like length together, and one part a batch, so that states come in the order of the rows.
    known = [row for row in all_rows(rows) if with_pictures or row["visual_features"] is None]
    known.sort(key=lambda row: len(render_turns(collator.processor, row["turns"])))
    shown = [row for row in known if row["visual_features"] is not None]
    known = [row for row in known if row["visual_features"] is None]
    batches = [some[at : at + _BATCH] for some in (known, shown) for at in range(0, len(some), _BATCH)]
    equal_calls, model.equal_calls = model.equal_calls, True
    try:
        for some in tqdm(batches, desc="Reading contexts"):
            batch = collator(some)
            inputs = {key: batch[key] for key in _INPUTS if key in batch}
            model.get_readout_features(**{key: value.to(model.device) for key, value in inputs.items()})
            read = [caught[number].mean(dim=1).float().cpu() for number in range(len(hooks))]
            read = torch.cat(read, dim=1)
            for kind in ("text", "image"):
                features = batch.get(f"target_{kind}_features")
                if features is not None:
                    kept = batch.get(f"target_{kind}_mask", torch.ones(len(some), dtype=torch.bool))
                    states.append(read[kept])
                    targets.append(F.normalize(features[kept].float(), dim=-1))
                    owners.append(batch["target_ids"][kept])
                    kinds.append(torch.full((int(kept.sum()),), kind == "image"))
    finally:
        model.equal_calls = equal_calls
        for hook in hooks:
            hook.remove()
    return ReadContexts(*map(torch.cat, (states, targets, owners, kinds)))


@torch.no_grad()
def set_readout(model: UniMuRModel, found: RidgeMap) -> None:
    """Sets the readout maps to one linear map of the read layers side by side."""
    first = 0
    for number, layer in enumerate(model.heads.readout_maps):
        layer.weight.copy_(found.weight[:, first : first + layer.in_features])
        layer.bias.copy_(found.bias if number == 0 else torch.zeros_like(layer.bias))
        first += layer.in_features


__all__ = ["ReadContexts", "fit_readout", "from_standard", "read_contexts", "set_readout", "start_in_closed_form"]
