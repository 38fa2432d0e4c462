"""VisDial v1.0 (Das et al., CVPR 2017): ten rounds of questions and answers about one image.

It reads the official files (visualdialog.org), and the val dialogues as text in ChatIR's repository.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from .dialog_schema import PublishedSet, ReadReport

PUBLISHED = {"train": {"dialogues": 123_287}, "val": {"dialogues": 2_064}, "test": {"dialogues": 8_000}}
OPTIONS = 100
_IMAGES = {
    "train": ("train2014/COCO_train2014_{:012d}.jpg", "val2014/COCO_val2014_{:012d}.jpg"),
    "val": ("VisualDialog_val2018/VisualDialog_val2018_{:012d}.jpg",),
    "test": ("VisualDialog_test2018/VisualDialog_test2018_{:012d}.jpg",),
}
_CHATIR = "VisDial_v1.0_queries_{}.json"


@dataclass(frozen=True)
class VisDialRound:
    """One question and its answer.

    Args:
        question: without a question mark, as the files have it.
        answer: empty where the set keeps it back.
        options: the candidate answers; None in the text form.
        gold: number of the right option.
        relevance: relevance of every option, 0 to 1, by several people; only one round a dialogue has it.
    """

    question: str
    answer: str
    options: tuple[str, ...] | None = None
    gold: int | None = None
    relevance: tuple[float, ...] | None = None


@dataclass(frozen=True)
class VisDialDialog:
    """One dialogue about an image, whose file is None where it is missing."""

    image_id: str
    image: Path | None
    caption: str
    rounds: tuple[VisDialRound, ...]


class VisDial(PublishedSet):
    """Dialogues of one split (`train`, `val` or `test`).

    Args:
        source: the folder that holds `visdial_1.0_<split>.json` and the images' folder (and, if it is there,
            `visdial_1.0_<split>_dense_annotations.json`); or that of ChatIR's `VisDial_v1.0_queries_<split>.json`; or
            one of these files itself.

    Raises:
        FileNotFoundError: no such file: the message names the places where it was looked for.
        ValueError: an unknown split.
    """

    title = "VisDial"
    origin = "It comes from visualdialog.org/data."
    published = PUBLISHED

    def __init__(self, source: str | os.PathLike, split: str = "val", limit: int | None = None) -> None:
        super().__init__(source, split, limit)
        names = (f"visdial_1.0_{split}.json", _CHATIR.format(split), f"dialogues/{_CHATIR.format(split)}")
        is_folder = self.folder.is_dir()
        file = self.first_there([self.folder / name for name in names] if is_folder else [self.folder])
        self.folder = self.folder if is_folder else self.folder.parent
        dense = file.with_name(f"{file.stem}_dense_annotations.json")
        self.files = [file, *([dense] if dense.is_file() else [])]

    def records(self, report: ReadReport) -> Iterator[tuple[str, Callable[[], VisDialDialog]]]:
        """Yield the dialogues by number."""
        file, *dense = self.files
        try:
            whole = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{file}: not whole JSON ({error}). Fetch it anew.") from error
        if isinstance(whole, list):
            yield from ((str(number), partial(self._from_text, record)) for number, record in enumerate(whole))
            return
        if not isinstance(whole, dict) or not isinstance(whole.get("data"), dict):
            raise ValueError(f"{file} is neither VisDial v1.0 (data.dialogs) nor ChatIR's list of dialogues.")
        relevance = _dense(dense[0]) if dense else {}
        if self.split == "val" and not dense:
            report.lose("no dense annotations", f"{file.stem}_dense_annotations.json")
        for number, record in enumerate(whole["data"]["dialogs"]):
            yield str(number), partial(self._official, record, whole["data"], relevance)

    def images_of(self, item: VisDialDialog) -> Iterable[tuple[str, bool]]:
        """Return the image."""
        return [(item.image_id, item.image is not None)]

    def note(self, item: VisDialDialog, report: ReadReport) -> None:
        """Count the dialogues with annotated relevance."""
        report.found["dense annotations"] += any(part.relevance is not None for part in item.rounds)

    def _official(self, record: dict, data: dict, relevance: dict[str, tuple]) -> VisDialDialog:
        questions, answers, rounds = data["questions"], data["answers"], []
        dense = relevance.get(str(record["image_id"]))
        for number, part in enumerate(record["dialog"], start=1):
            options = part.get("answer_options")
            judged = dense[1] if dense is not None and dense[0] == number else None  # rounds count from 1 there
            if judged is not None and len(judged) != len(options):
                raise ValueError(f"{len(judged)} relevances for {len(options)} options")
            rounds.append(
                VisDialRound(
                    questions[part["question"]],
                    answers[part["answer"]] if "answer" in part else "",
                    None if options is None else tuple(answers[option] for option in options),
                    part.get("gt_index"),
                    judged,
                )
            )
        image = self._image(*(name.format(record["image_id"]) for name in _IMAGES[self.split]))
        return VisDialDialog(str(record["image_id"]), image, record.get("caption", ""), tuple(rounds))

    def _from_text(self, record: dict) -> VisDialDialog:
        caption, *rounds = record["dialog"]
        found = []
        for line in rounds:
            question, mark, answer = line.partition("? ")
            found.append(VisDialRound(question if mark else line.removesuffix("?"), answer.strip()))
        return VisDialDialog(record["img"], self._image(record["img"]), caption, tuple(found))

    def _image(self, *names: str) -> Path | None:
        bases = (self.folder, self.folder.parent)
        return next((base / name for base in bases for name in names if (base / name).is_file()), None)


def _dense(path: Path) -> dict[str, tuple[int, tuple[float, ...]]]:
    """Image id -> round, from 1 on, and the relevance of its options. Matched by image: the files' orders may
    differ."""
    found = {}
    for entry in json.loads(path.read_text(encoding="utf-8")):
        relevance = entry["gt_relevance"] if "gt_relevance" in entry else entry["relevance"]
        found[str(entry["image_id"])] = (int(entry["round_id"]), tuple(map(float, relevance)))
    return found
