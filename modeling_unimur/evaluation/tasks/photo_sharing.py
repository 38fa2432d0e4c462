"""PhotoChat: retrieval of the shared photo, and detection of the turn that shares it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...data.photochat import PhotoChat, PhotoDialog
from ..evaluator import Encoded, Evaluator
from ..metrics import CUTOFFS, area_under_curve, recall_values, threshold_for
from ..provenance import data_record
from ..report import Figures, TaskResult
from ..systems.base import Gallery, System
from .options import TaskOptions

_ROLES = ("user", "assistant")


def _contexts(dialog: PhotoDialog) -> list[list[dict]]:
    """Returns the context of each turn up to the one that shares the photo."""
    messages = [
        {"role": _ROLES[int(speaker != dialog.turns[0][0])], "content": [{"type": "text", "text": words}]}
        for speaker, words in dialog.turns[: dialog.shared]
        if words
    ]
    return [messages[:end] for end in range(1, len(messages) + 1)]


def evaluate_photochat(
    data: str, systems: Sequence[System], options: TaskOptions, work: Path | None = None
) -> TaskResult:
    """Evaluates retrieval of the shared photo among all photos of the split, from the turns before it, and how well
    the best photo's score separates the turn that shares a photo from the turns before.

    Options: `split` (`test` by default), `limit`, `over_return`, `seed`.

    Raises:
        FileNotFoundError, ValueError: as the reader; ValueError also where no dialogue has its photo.
    """
    reader = PhotoChat(data, options.split or "test", options.limit)
    every = list(reader)
    dialogs = [dialog for dialog in every if dialog.image is not None and _contexts(dialog)]
    if not dialogs:
        raise ValueError(f"No dialogue of {data} has its photo. {reader.report.describe()}")
    photos = {dialog.photo_id: dialog for dialog in dialogs}
    numbers = {name: number for number, name in enumerate(photos)}
    files = tuple(str(dialog.image) for dialog in photos.values())
    gallery = Gallery((), tuple(photos), files, tuple(dialog.description for dialog in photos.values()))
    groups = [_contexts(dialog) for dialog in dialogs]
    ends = np.cumsum(list(map(len, groups)))
    golds = np.array([numbers[dialog.photo_id] for dialog in dialogs])

    def measure(system: Encoded) -> Figures:
        values = recall_values(system.gold_ranks("image", ends - 1, golds))
        values["sum"] = sum(values[f"r{k}"] for k in CUTOFFS)
        scalars, shared = _when(system, ends, options)
        values[f"shared@over{options.over_return:g}"] = shared
        return Figures(values, scalars=scalars)

    evaluator = Evaluator(systems, work)
    figures = evaluator.evaluate(groups, gallery, measure)
    about = data_record(data, reader.split, reader.files, options.limit, dialogues=len(dialogs), images=len(photos))
    notes = [
        f"{len(photos)} photos to choose from (1,000 in PhotoChat's test). sum: R@1 + R@5 + R@10.",
        f"shared@over{options.over_return:g}: share of the photos' turns that the best photo's score finds, where as "
        "many percent of the turns before are taken for one. share_f1: the best F1 at any threshold on these turns.",
        *reader.report.problems(),
        *evaluator.notes(),
    ]
    ids = np.array([dialog.dialog_id for dialog in dialogs])
    main = (*(f"r{k}" for k in CUTOFFS), "sum", f"shared@over{options.over_return:g}", "share_auc", "share_f1")
    return TaskResult("photochat", about, ids, ids, figures, notes, main, options.seed)


def _when(system: Encoded, ends: np.ndarray, options: TaskOptions) -> tuple[dict[str, float], np.ndarray]:
    """Measures how well the best photo's score separates the turns that share a photo from the others."""
    count = int(ends[-1])
    blocks = np.array_split(np.arange(count), count // 512 + 1)
    best = np.concatenate([system.scores("image", rows).max(axis=1) for rows in blocks])
    wanted = np.isin(np.arange(count), ends - 1)
    scalars = {"share_auc": area_under_curve(best, wanted), "share_f1": _best_f1(best, wanted)}
    if wanted.all():
        return scalars, np.full(len(ends), np.nan)
    return scalars, 100.0 * (best[ends - 1] >= threshold_for(best, wanted, options.over_return / 100))


def _best_f1(scores: np.ndarray, wanted: np.ndarray) -> float:
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(wanted[order])
    last = np.append(np.diff(scores[order]) != 0, True)  # equal scores are decided alike
    f1 = 2 * hits / (np.arange(1, len(scores) + 1) + wanted.sum())
    return float(100 * f1[last].max())
