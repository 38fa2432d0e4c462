"""Systems on the same dialogues: recall with intervals, time and weight."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from .compare_dialogues import ComparedDialogue
from .metrics import CUTOFFS, recall_at, right_ranks
from .significance import bootstrap, paired_bootstrap
from .systems.base import KINDS, Gallery, RetrievalSystem, megabytes

# Dialogues that are timed, after those that warm up.
_TIMED, _WARM = 40, 3
# From this many turns on a dialogue counts as long.
_LONG = 3


@dataclass
class SystemResult:
    """One row.

    Args:
        name, sees: of the system.
        recalls: kind to `r1`, `r5`, `r10`, each `{"mean", "low", "high"}` in percent, 95 % by the bootstrap over
            dialogues.
        by_turns: kind to `short` (one or two turns) and `long` to `r1`, `r5`, `r10` in percent and `dialogues`.
        ranks: kind to the rank of the best placed right answer of every dialogue; None where it has no gold one.
        milliseconds: median time of a turn, warm: one dialogue read and scored against all candidates; or None.
        megabytes_beyond, megabytes_total: weights, as in `systems.Weights`.
        seconds_candidates: what `index` took; the first system of a dual encoder pays for all that share it.
        consistent: 100 for a dialogue whose first text and first picture are right for one and the same dialogue, be
            it this one or another, else 0; None without dialogues that have both.
    """

    name: str
    sees: str
    recalls: dict
    by_turns: dict
    ranks: dict
    milliseconds: float | None
    megabytes_beyond: float
    megabytes_total: float
    seconds_candidates: float
    consistent: list[float] | None = None


@dataclass
class Comparison:
    """All rows.

    Args:
        systems: in the order in which they were given.
        dialogues, texts, images: how many.
        judged: kind to the number of dialogues that have a gold answer of it.
        threads: of PyTorch, which the times depend on.
        left_out: system to the reason why it is not here.
    """

    systems: list[SystemResult]
    dialogues: int
    texts: int
    images: int
    judged: dict
    threads: int
    left_out: dict = field(default_factory=dict)

    def difference(self, ours: str, theirs: str, kind: str, cutoff: int) -> dict[str, float]:
        """Recall of one system minus that of another on the same dialogues: `mean`, `low`, `high` in points."""
        rows = {result.name: result for result in self.systems}
        hits = [_hits(rows[name].ranks[kind], cutoff) for name in (ours, theirs)]
        return vars(paired_bootstrap(*hits)).copy()


def compare(
    dialogues: Sequence[ComparedDialogue],
    gallery: Gallery,
    systems: Sequence[RetrievalSystem],
    timed: bool = True,
) -> Comparison:
    """Runs every system on every dialogue.

    Recall is the share of dialogues whose first right answer is among the first k; several pictures may be right, a
    text is right when it equals the gold one. Dialogues without a gold answer of a kind are left out for that kind.

    Args:
        dialogues: with what is right for each.
        gallery: the candidates.
        systems: fitted where they learn.
        timed: whether to measure times: one dialogue at a time, one system after the other.

    Raises:
        ValueError: no dialogue, or no system, or two of one name.
    """
    if not dialogues or not systems:
        raise ValueError("A comparison needs a dialogue and a system at least.")
    names = [system.name for system in systems]
    if len(set(names)) < len(names):
        raise ValueError(f"Two systems of one name: {names}.")
    right = {kind: _right(dialogues, gallery, kind) for kind in gallery.kinds()}
    judged = {kind: int(mask.any(axis=1).sum()) for kind, mask in right.items()}
    right = {kind: mask for kind, mask in right.items() if judged[kind]}
    rows = [_run(system, dialogues, gallery, right, timed) for system in systems]
    return Comparison(rows, len(dialogues), len(gallery.texts), len(gallery.images), judged, torch.get_num_threads())


def _right(dialogues: Sequence[ComparedDialogue], gallery: Gallery, kind: str) -> np.ndarray:
    """Which candidates are right `(dialogues, candidates)`."""
    if kind == "text":
        return np.array([[text == dialogue.right_text for text in gallery.texts] for dialogue in dialogues])
    return np.array([np.isin(gallery.image_ids, dialogue.right_images) for dialogue in dialogues])


def _run(system, dialogues, gallery, right, timed) -> SystemResult:
    start = time.perf_counter()
    system.index(gallery)
    seconds = time.perf_counter() - start
    messages = [list(dialogue.messages) for dialogue in dialogues]
    queries = system.encode_queries(messages)
    long = np.array([len(dialogue.messages) >= _LONG for dialogue in dialogues])
    recalls, by_turns, ranks, first = {}, {}, {}, {}
    for kind, mask in right.items():
        found = np.asarray(system.scores(queries, kind), dtype=np.float64)
        first[kind] = found.argmax(axis=1)
        one = right_ranks(found, mask)
        ranks[kind] = [int(rank) or None for rank in one]
        recalls[kind] = {f"r{k}": vars(bootstrap(_hits(ranks[kind], k))).copy() for k in CUTOFFS}
        has = mask.any(axis=1)
        by_turns[kind] = {}
        for name, chosen in (("short", has & ~long), ("long", has & long)):
            if chosen.any():
                by_turns[kind][name] = {
                    **recall_at(one[chosen]),
                    "dialogues": int(chosen.sum()),
                }
    weights = system.weights()
    return SystemResult(
        name=system.name,
        sees=system.sees,
        recalls=recalls,
        by_turns=by_turns,
        ranks=ranks,
        milliseconds=_median_milliseconds(system, messages, list(right)) if timed else None,
        megabytes_beyond=megabytes(weights.beyond),
        megabytes_total=megabytes(weights.total),
        seconds_candidates=seconds,
        consistent=_consistent(right, first),
    )


def _consistent(right: dict[str, np.ndarray], first: dict[str, np.ndarray]) -> list[float] | None:
    both = np.ones(len(next(iter(right.values()))), dtype=bool)
    for mask in right.values():
        both &= mask.any(axis=1)
    if len(right) < len(KINDS) or not both.any():
        return None
    found = np.logical_and(*(right[kind][:, first[kind]] for kind in KINDS)).any(axis=0)
    return (100.0 * found[both]).tolist()


def _hits(ranks: Sequence[int | None], cutoff: int) -> np.ndarray:
    """100 or 0 for every dialogue that has a gold answer."""
    return np.array([100.0 * (rank <= cutoff) for rank in ranks if rank is not None])


def _median_milliseconds(system: RetrievalSystem, messages: list, kinds: Sequence[str]) -> float:
    spent = []
    for number in range(_WARM + min(_TIMED, len(messages))):
        start = time.perf_counter()
        query = system.encode_queries([messages[number % len(messages)]])
        for kind in kinds:
            system.scores(query, kind)
        spent.append(1000 * (time.perf_counter() - start))
    return statistics.median(spent[_WARM:])


__all__ = ["Comparison", "SystemResult", "compare"]
