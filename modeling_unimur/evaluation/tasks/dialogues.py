"""Compares systems on dialogues with a relevant text, relevant images or both: recall, time and weight."""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from ..compare_dialogues import ComparedDialogue
from ..evaluator import Encoded, Evaluator
from ..metrics import CUTOFFS, consistency_values, recall_values, right_ranks
from ..report import Figures, TaskResult
from ..systems.base import KINDS, Gallery, System, megabytes

# Dialogues that are timed, after those that warm up.
_TIMED, _WARM = 40, 3
# From this many turns on a dialogue counts as long.
LONG = 3
TIME, BEYOND, TOTAL = "ms a turn", "MB beyond", "MB in all"


def compare_systems(
    dialogues: Sequence[ComparedDialogue],
    gallery: Gallery,
    systems: Sequence[System],
    timed: bool = True,
    data: Mapping[str, object] | None = None,
    seed: int = 0,
) -> TaskResult:
    """Runs every system on every dialogue.

    Recall is the share of dialogues whose first right answer is among the first k; several images may be right, a text
    is right when it equals the gold one. A dialogue without a gold answer of a kind has no figure of that kind.

    Args:
        dialogues, gallery: with what is right for each, and the candidates.
        systems: fitted where they learn.
        timed: whether to measure times: one dialogue at a time, one system after the other.
        data: what identifies the dialogues.
        seed: seed of the intervals.

    Raises:
        ValueError: no dialogue, no system, or two systems of one name.
    """
    if not dialogues:
        raise ValueError("A comparison needs at least one dialogue.")
    right = {kind: mask for kind in gallery.kinds() if (mask := relevance_mask(dialogues, gallery, kind)).any()}
    long = np.array([len(dialogue.messages) >= LONG for dialogue in dialogues])
    messages = [list(dialogue.messages) for dialogue in dialogues]

    def measure(system: Encoded) -> Figures:
        values, scores = {}, {}
        for kind, mask in right.items():
            scores[kind] = system.scores(kind, np.arange(len(messages)))
            for name, column in recall_values(right_ranks(scores[kind], mask), prefix=f"{kind} ").items():
                values[name] = np.where(mask.any(axis=1), column, np.nan)
                for length, chosen in (("short", ~long), ("long", long)):
                    values[f"{name}, {length}"] = np.where(chosen, values[name], np.nan)
        if len(right) == len(KINDS):
            both = np.logical_and.reduce([mask.any(axis=1) for mask in right.values()])
            agree = consistency_values(*(scores[kind] for kind in KINDS), *(right[kind] for kind in KINDS))
            values["consistency"] = np.where(both, agree, np.nan)
        weights = system.system.weights()
        scalars = {BEYOND: megabytes(weights.beyond), TOTAL: megabytes(weights.total)}
        if timed:
            scalars[TIME] = _milliseconds(system, messages, list(right))
        return Figures(values, scalars=scalars)

    evaluator = Evaluator(systems)
    figures = evaluator.evaluate([[context] for context in messages], gallery, measure)
    notes = [
        f"{len(dialogues)} dialogues, {len(gallery.images)} images and {len(gallery.texts)} texts to choose from; "
        + "; ".join(f"{int(mask.any(axis=1).sum())} have a gold {kind}" for kind, mask in right.items())
        + ".",
        "r@k: percent of dialogues with a right answer among the first k; short: one or two turns, long: more. "
        "consistency: of the dialogues with a gold text and a gold image, those whose first text and first image are "
        "right for one and the same dialogue, this one or another.",
        f"{TIME}: median over single dialogues, warm, {torch.get_num_threads()} thread(s), reading and scoring. "
        f"{BEYOND}: weights besides the dual encoder that made the image index; {TOTAL}: with it, where the system "
        "needs it.",
        *evaluator.notes(),
    ]
    main = [f"{kind} r{k}" for kind in reversed(KINDS) if kind in right for k in CUTOFFS]
    digest = hashlib.sha256(repr((dialogues, gallery)).encode("utf-8", "surrogatepass")).hexdigest()[:16]
    about = {**(data or {}), "digest": digest}
    ids = np.array([dialogue.dialogue_id for dialogue in dialogues])
    columns = (*main, *([TIME] if timed else []), BEYOND, TOTAL)
    return TaskResult("dialogues", about, ids, np.arange(len(ids)), figures, notes, columns, seed)


def relevance_mask(dialogues: Sequence[ComparedDialogue], gallery: Gallery, kind: str) -> np.ndarray:
    """Returns the mask of the relevant candidates `(dialogues, candidates)`."""
    if kind == "text":
        return np.array([[text == dialogue.right_text for text in gallery.texts] for dialogue in dialogues])
    return np.array([np.isin(gallery.image_ids, dialogue.right_images) for dialogue in dialogues])


def _milliseconds(system: Encoded, messages: list, kinds: Sequence[str]) -> float:
    """Returns the median time per turn after warm-up; each dialogue is encoded and scored against all candidates."""
    spent = []
    for number in range(_WARM + min(_TIMED, len(messages))):
        start = time.perf_counter()
        query = system.system.encode_queries([messages[number % len(messages)]])
        for kind in kinds:
            system.system.scores(query, system.candidates, kind)
        spent.append(1000 * (time.perf_counter() - start))
    return statistics.median(spent[_WARM:])
