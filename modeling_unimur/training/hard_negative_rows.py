"""Rows of dual alignment training with hard negatives of both modalities, as UniVL-DR balances them (section 3.2)."""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Sequence

import torch
from torch.nn import functional as F
from torch.utils.data import Dataset

from .collators import DualAlignmentCollator, all_rows, rows_at
from .dev_sets import embed_rows
from .mining import MiningOptions, mine_vectors

logger = logging.getLogger(__name__)

# A candidate of such a cosine with a right target counts as right as well.
_OPTIONS = MiningOptions(joint=False, max_similarity=0.95)


class HardNegativeRows(Dataset):
    """Adds to every row `image_negatives` and `text_negatives (count, width)`. The draws depend on the seed, the epoch
    and the row alone, so that a resumed run draws the same.

    Args:
        rows: rows of `context_rows`.
        pools (`dict[str, torch.Tensor]`): `image` and `text` to the distinct targets `(targets, width)` of all rows.
        mined (`dict[str, list[list[int]]]`): `image` and `text` to each row's hard negatives, as numbers in the pool.
        count (`int`): number of negatives of each kind for a row. If a row has fewer, they are repeated.
        seed (`int`): seed of the draws.
    """

    def __init__(
        self,
        rows: Dataset,
        pools: dict[str, torch.Tensor],
        mined: dict[str, list[list[int]]],
        count: int = 1,
        seed: int = 0,
    ):
        self.rows, self.pools, self.mined, self.count = rows, pools, mined, count
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Draws other negatives from now on. The Trainer's data loader calls it."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> dict:
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: Sequence[int]) -> list[dict]:
        """Returns the rows of one batch."""
        found = [dict(row) for row in rows_at(self.rows, rows)]
        for number, row in zip(rows, found, strict=True):
            rng = random.Random(f"{self.seed}/{self.epoch}/{int(number)}")
            for kind, pool in self.pools.items():
                row[f"{kind}_negatives"] = pool[rng.choices(self.mined[kind][int(number)], k=self.count)]
        return found


@torch.no_grad()
def mine_hard_negatives(
    model,
    rows: Dataset,
    collator: DualAlignmentCollator,
    count: int = 1,
    seed: int = 0,
) -> HardNegativeRows:
    """Searches the targets of all rows with each row's unified embedding. Candidates that rank high and are not
    relevant are hard negatives, equally many of each modality.

    Images and texts are ranked apart by default: in one ranking the modality gap would decide which of them come
    first.

    Args:
        model (`UniMuRModel`): as it stands; its maps on the targets are applied.
        rows: rows of `context_rows`; rows with equal `target_ids` are right for each other.
        collator: the run's.
        count: hard negatives of each modality a row and epoch.
        seed: seed of the draws.

    Raises:
        ValueError: all targets of a modality are right for a context.
    """
    known = all_rows(rows)
    was_training = model.training
    queries = embed_rows(model.eval(), known, collator).to(model.device)
    model.train(was_training)
    pools, mined, report = {}, {}, Counter()
    for kind, target in (("image", model.heads.image_target), ("text", model.heads.text_target)):
        pool, ids = _distinct([row[f"target_{kind}_features"] for row in known], [int(r["target_ids"]) for r in known])
        if not len(pool):
            continue
        places: dict[int, list[int]] = {}
        for place, owner in enumerate(ids):
            places.setdefault(owner, []).append(place)
        right = [places.get(int(row["target_ids"]), []) for row in known]
        vectors = target(pool.float().to(model.device)).float()
        found = mine_vectors(queries, vectors, [kind] * len(pool), right, _OPTIONS, report=report)
        every = range(len(pool))
        # A row whose search found right targets alone takes any wrong one.
        mined[kind] = [
            each[kind] or [n for n in every if n not in own] for each, own in zip(found, map(set, right), strict=True)
        ]
        if not all(mined[kind]):
            raise ValueError(f"All targets ({kind}) are right for one context: there are no hard negatives to mine.")
        pools[kind] = pool
    logger.info(
        "Hard negatives of %d contexts: %s; dropped: %s",
        len(known),
        ", ".join(f"{sum(map(len, each)):,} of kind {kind}" for kind, each in mined.items()),
        dict(report) or "none",
    )
    return HardNegativeRows(rows, pools, mined, count, seed)


def _distinct(features: list[torch.Tensor | None], ids: list[int]) -> tuple[torch.Tensor, list[int]]:
    """Returns the targets without repeats, and the id of each. A target that two ids share stands once for each."""
    pool, owners, seen = [], [], set()
    for feature, owner in zip(features, ids, strict=True):
        if feature is None:
            continue
        key = (owner, F.normalize(feature.float(), dim=-1).half().numpy().tobytes())
        if key not in seen:
            seen.add(key)
            pool.append(feature)
            owners.append(owner)
    return (torch.stack(pool) if pool else torch.empty(0, 0)), owners
