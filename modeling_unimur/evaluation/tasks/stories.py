"""VIST: the last image of a story, in FROMAGe's three settings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...data.vist import VIST, Story
from ..evaluator import Encoded, Evaluator
from ..metrics import CUTOFFS, recall_values
from ..provenance import data_record
from ..report import Figures, TaskResult
from ..systems.base import Gallery, System
from .options import TaskOptions

# Sentences of a story that are read, and whether the images between them are (Koh et al., ICML 2023, table 1).
SETTINGS = {"1 caption": (1, False), "5 captions": (5, False), "5 captions, 4 images": (5, True)}


def story_context(story: Story, setting: str, images: dict[str, str]) -> list[dict]:
    """Converts a story of five sentences to chat messages, one per sentence, followed by its image (its file in
    `images`); the last sentence's image is wanted."""
    count, shown = SETTINGS[setting]
    messages = []
    for place in range(len(story.sentences) - count, len(story.sentences)):
        content: list[dict] = [{"type": "text", "text": story.sentences[place]}]
        if shown and place < len(story.sentences) - 1:
            content.append({"type": "image", "image": images[story.image_ids[place]]})
        messages.append({"role": "user", "content": content})
    return messages


def evaluate_vist(data: str, systems: Sequence[System], options: TaskOptions, work: Path | None = None) -> TaskResult:
    """Evaluates retrieval of the last image among all images of the split, from one sentence, five sentences, or five
    sentences and four images. Images that a system is shown do not compete.

    Options: `split` (`val` by default, as FROMAGe), `limit`, `seed`.

    Raises:
        FileNotFoundError, ValueError: as the reader; ValueError also where no story has all its images.
    """
    found = VIST(data, options.split or "val", options.limit)
    stories = list(found)
    names = list(dict.fromkeys(name for story in stories for name in story.image_ids))
    images = {name: str(path) for name in names if (path := found.image(name)) is not None}
    whole = [story for story in stories if all(name in images for name in story.image_ids)]
    if not whole:
        raise ValueError(f"No story of {data} has all its images. {found.report.describe()}")
    ids = tuple(images)
    numbers = {name: number for number, name in enumerate(ids)}
    gallery = Gallery((), ids, tuple(images.values()), ("",) * len(ids))
    groups = [[story_context(story, setting, images) for setting in SETTINGS] for story in whole]
    golds = np.array([numbers[story.image_ids[-1]] for story in whole])

    def measure(system: Encoded) -> Figures:
        values: dict[str, np.ndarray] = {}
        for place, (setting, (_, shown)) in enumerate(SETTINGS.items()):
            queries = np.arange(len(whole)) * len(SETTINGS) + place
            # What was shown never is the answer, but where a story ends with an image that it began with.
            seen = [[numbers[n] for n in story.image_ids[:-1] if n != story.image_ids[-1]] for story in whole]
            ranks = system.gold_ranks("image", queries, golds, seen if shown else None)
            values.update(recall_values(ranks, prefix=f"{setting}: "))
        return Figures(values)

    evaluator = Evaluator(systems, work)
    figures = evaluator.evaluate(groups, gallery, measure)
    about = data_record(data, found.split, found.files, options.limit, stories=len(whole), images=len(ids))
    left_out = len(stories) - len(whole)
    notes = [
        f"{len(ids)} images to choose from; {left_out} stories that lack an image are left out. A sentence and its "
        "image are a turn; FROMAGe joins them without a break, and begins every sentence with a start token.",
        *found.report.problems(),
        *evaluator.notes(),
    ]
    query_ids = np.array([story.story_id for story in whole])
    main = tuple(f"{setting}: r{k}" for setting in SETTINGS for k in CUTOFFS)
    return TaskResult("vist", about, query_ids, query_ids, figures, notes, main, options.seed)
