"""A linear map in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from ..metrics import first_right_ranks

# Relative to the mean variance of an input.
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
# Rows that a penalty is judged by.
_MOST_JUDGES = 1000
# Rows that are added up together.
_PIECE = 4096


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
    """Sums in float64 from which a ridge regression follows: no copy of all rows is made in that precision."""

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

    def solutions(self, penalties: tuple[float, ...]):
        """The map for every penalty."""
        mean_in, mean_out = self.inputs / self.rows, self.outputs / self.rows
        gram = self.gram - self.rows * torch.outer(mean_in, mean_in)
        cross = self.cross - self.rows * torch.outer(mean_in, mean_out)
        size = float(gram.diagonal().mean()) or 1.0
        for penalty in penalties:
            ridge = gram + penalty * size * torch.eye(len(gram), dtype=gram.dtype)
            weight = torch.cholesky_solve(cross, torch.linalg.cholesky(ridge)).T
            yield penalty, RidgeMap(weight.float(), (mean_out - weight @ mean_in).float(), penalty)


__all__ = ["PENALTIES", "RidgeMap", "fit_ridge"]
