"""A linear map in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from ..retrieval_metrics import first_right_ranks

# Relative to the mean variance of an input.
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
# Rows that a penalty is judged by.
_MOST_JUDGES = 1000


@dataclass
class RidgeMap:
    """`inputs @ weight.T + bias`.

    Args:
        weight (`(outputs, inputs)`), bias (`(outputs,)`): float32.
        penalty: the one that was chosen.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    penalty: float

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs @ self.weight.T + self.bias


def fit_ridge(
    inputs: torch.Tensor,
    targets: torch.Tensor,
    groups: torch.Tensor,
    offsets: torch.Tensor | None = None,
    penalties: tuple[float, ...] = PENALTIES,
    seed: int = 0,
) -> RidgeMap:
    """Ridge regression. Its penalty is chosen by the retrieval of groups that the fit has not seen (a tenth of them,
    up to 1,000 rows; by mean reciprocal rank); then it is fitted on all rows.

    Args:
        inputs (`(rows, in)`), targets (`(rows, out)`): the targets are unit vectors.
        groups (`(rows,)`): equal ones have the same target.
        offsets (`(rows, out)`, *optional*): is added to what the map gives. With the inputs as offsets a large penalty
            gives the inputs back.
        penalties: to choose from, as shares of the inputs' mean variance.
        seed: of the choice of groups.

    Raises:
        ValueError: for fewer than four rows, or two groups.
    """
    distinct = groups.unique()
    if len(inputs) < 4 or len(distinct) < 2:
        raise ValueError(
            f"A linear map needs four texts with two targets at least, not {len(inputs)} with {len(distinct)}."
        )
    inputs, targets = inputs.double(), targets.double()
    base = torch.zeros_like(targets) if offsets is None else offsets.double()
    order = distinct[torch.randperm(len(distinct), generator=torch.Generator().manual_seed(seed))]
    judges = torch.isin(groups, order[: max(len(order) // 10, 1)]).nonzero().flatten()[:_MOST_JUDGES]
    learned = ~torch.isin(groups, groups[judges])
    best, chosen = -1.0, penalties[-1]
    for penalty, found in _solutions(inputs[learned], targets[learned] - base[learned], penalties):
        queries = F.normalize(found(inputs[judges]) + base[judges], dim=-1)
        rank = first_right_ranks((queries @ targets.T).numpy(), groups[judges].numpy(), groups.numpy())
        score = float(np.mean(1 / rank))
        if score >= best:  # of equals the most cautious
            best, chosen = score, penalty
    found = next(iter(_solutions(inputs, targets - base, (chosen,))))[1]
    return RidgeMap(found.weight.float(), found.bias.float(), chosen)


def _solutions(inputs: torch.Tensor, targets: torch.Tensor, penalties: tuple[float, ...]):
    """The map for every penalty, from one product of the inputs with themselves."""
    mean_in, mean_out = inputs.mean(dim=0), targets.mean(dim=0)
    centred = inputs - mean_in
    gram, cross = centred.T @ centred, centred.T @ (targets - mean_out)
    size = float(gram.diagonal().mean()) or 1.0
    for penalty in penalties:
        ridge = gram + penalty * size * torch.eye(len(gram), dtype=gram.dtype)
        weight = torch.cholesky_solve(cross, torch.linalg.cholesky(ridge)).T
        yield penalty, RidgeMap(weight, mean_out - weight @ mean_in, penalty)


__all__ = ["PENALTIES", "RidgeMap", "fit_ridge"]
