"""The papers' protocols, one function per task: readers, pools, measures and tables.

A task's module takes PyTorch, so it is imported when the task runs.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

from .options import TaskOptions


@dataclass(frozen=True)
class Task:
    """A protocol.

    Args:
        function: `module:name` of a function of `(data, systems, options, work)` that gives a `TaskResult`: what it
            reads, fitted `systems.System`s, `TaskOptions`, and a folder of finished batches or None. A module that
            begins with a dot is one of this package.
        summary: what it measures, in a line.
        data: what it reads.
        takes: `systems`, or `models`: the function then takes the models' addresses in their place, and brings its own
            systems.
    """

    function: str
    summary: str
    data: str
    takes: str = "systems"


TASKS: dict[str, Task] = {
    "mmdialog": Task(
        ".mmdialog:evaluate_mmdialog",
        "text and image of each reply among its dialogue's 1,000 + 1,000 candidates",
        "MMDialog's folder; or dev or test, the hand-written dialogues",
    ),
    "mmdialog-images": Task(
        ".mmdialog:evaluate_mmdialog_images", "each gold image among its dialogue's 1,000 images", "as mmdialog"
    ),
    "visdial": Task(
        ".visdial:evaluate_visdial",
        "dialogue to image and image to dialogue, by the rounds shown",
        "VisDial v1.0's folder, or ChatIR's; or dev or test, the hand-written dialogues",
    ),
    "visdial-answers": Task(
        ".visdial:evaluate_visdial_answers", "each round's 100 answer options: NDCG, MRR, R@k", "VisDial v1.0's folder"
    ),
    "vist": Task(".stories:evaluate_vist", "the last image of a story, in three settings", "VIST's folder"),
    "photochat": Task(".photo_sharing:evaluate_photochat", "which photo is shared, and when", "PhotoChat's folder"),
    "captions": Task(
        ".captions:evaluate_captions",
        "caption to image and image to caption",
        "a folder of images with captions.tsv, or Karpathy's JSON of COCO or Flickr30k",
    ),
    "webqa": Task(
        ".webqa:evaluate_webqa",
        "texts and images in one index, by models of UniVL-DR",
        "WebQA's folder, UniVL-DR's data.zip, M-BEIR's folder, or a retrieval set's folder or name",
        takes="models",
    ),
}


def task_function(name: str) -> Callable:
    """Returns the function of a task.

    Raises:
        ValueError: an unknown task.
    """
    if name not in TASKS:
        raise ValueError(f"Unknown task {name!r}: choose from {', '.join(TASKS)}.")
    module, _, function = TASKS[name].function.partition(":")
    return getattr(importlib.import_module(module, __name__), function)


__all__ = ["TASKS", "Task", "TaskOptions", "task_function"]
