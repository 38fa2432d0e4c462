"""Caption to image and image to caption, as on COCO and Flickr30k."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...data.captioned_images import read_captioned
from ..evaluator import Encoded, Evaluator
from ..metrics import CUTOFFS, recall_values
from ..provenance import data_record
from ..report import Figures, TaskResult
from ..systems.base import Gallery, System
from .options import TaskOptions


def evaluate_captions(
    data: str, systems: Sequence[System], options: TaskOptions, work: Path | None = None
) -> TaskResult:
    """Evaluates caption to image, and image to caption by the same scores, over the whole split.

    Options: `split` (`test` by default), `limit` (images), `seed`.

    Raises:
        FileNotFoundError, ValueError: as `read_captioned`.
    """
    captions, sources, notes = read_captioned(data, options.split or "test")
    files = list(captions)[: options.limit]
    pairs = [(caption, number) for number, file in enumerate(files) for caption in captions[file]]
    gallery = Gallery((), tuple(files), tuple(files), ("",) * len(files))
    groups = [[[{"role": "user", "content": [{"type": "text", "text": caption}]}]] for caption, _ in pairs]
    golds, every = np.array([number for _, number in pairs]), np.arange(len(pairs))

    def measure(system: Encoded) -> Figures:
        values = recall_values(system.gold_ranks("image", every, golds), prefix="caption2image ")
        firsts = system.query_ranks("image", every, golds)
        # An image's figure stands at its first caption, so that all columns are as long.
        first = np.unique(golds, return_index=True)[1]
        for measure, column in recall_values(firsts, prefix="image2caption ").items():
            values[measure] = np.full(len(pairs), np.nan)
            values[measure][first] = column
        return Figures(values)

    evaluator = Evaluator(systems, work)
    figures = evaluator.evaluate(groups, gallery, measure)
    about = data_record(data, options.split or "test", sources, options.limit, captions=len(pairs), images=len(files))
    notes += evaluator.notes()
    notes.append("image2caption: rank of the best placed of an image's captions among all captions.")
    main = tuple(f"{way} r{k}" for way in ("caption2image", "image2caption") for k in CUTOFFS)
    ids = np.array([f"{Path(files[number]).name}/{place}" for place, (_, number) in enumerate(pairs)])
    return TaskResult("captions", about, ids, golds.astype(str), figures, notes, main, options.seed)
