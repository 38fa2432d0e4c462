"""VisDial v1.0 (Das et al., CVPR 2017): ten rounds of questions and answers about one image.

It reads the official files (visualdialog.org), and the val dialogues as text in ChatIR's repository.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .dialog_schema import Dialog, ReadReport, Turn

PUBLISHED = {"train": 123_287, "val": 2_064, "test": 8_000}
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
        relevance: of every option, 0 to 1, by several people; only one round a dialogue has it.
    """

    question: str
    answer: str
    options: tuple[str, ...] | None = None
    gold: int | None = None
    relevance: tuple[float, ...] | None = None


@dataclass(frozen=True)
class VisDialDialog:
    """One dialogue.

    Args:
        image_id: of its image.
        picture: its file, or None where it is missing.
        caption: of the image.
        rounds: in order.
    """

    image_id: str
    picture: Path | None
    caption: str
    rounds: tuple[VisDialRound, ...]

    def dialog(self) -> Dialog:
        """In the schema of all sets: the image with its caption first, then a turn a question and an answer."""
        turns = [Turn("answerer", (("text", self.caption), ("image", self.image_id)))]
        for part in self.rounds:
            turns.append(Turn("questioner", (("text", f"{part.question}?"),)))
            if part.answer:
                turns.append(Turn("answerer", (("text", part.answer),)))
        return Dialog(self.image_id, tuple(turns))


class VisDial:
    """One split.

    Args:
        source: the folder that holds `visdial_1.0_<split>.json` and the images' folder (and, if it is there,
            `visdial_1.0_<split>_dense_annotations.json`); or that of ChatIR's `VisDial_v1.0_queries_<split>.json`; or
            one of these files itself.
        split: `train`, `val` or `test`.
        limit: read only so many dialogues.

    Attributes:
        report (`ReadReport`): of the last whole iteration.
        files (`list[Path]`): what is read.

    Raises:
        FileNotFoundError: no such file: the message names the places where it was looked for.
        ValueError: an unknown split.
    """

    def __init__(self, source: str | os.PathLike, split: str = "val", limit: int | None = None) -> None:
        if split not in PUBLISHED:
            raise ValueError(f"VisDial has no split {split!r}: choose from {', '.join(PUBLISHED)}.")
        source = Path(source).expanduser()
        self.split, self.limit, self.source = split, limit, source
        self.folder = source if source.is_dir() else source.parent
        names = (f"visdial_1.0_{split}.json", _CHATIR.format(split), f"dialogues/{_CHATIR.format(split)}")
        places = [source / name for name in names] if source.is_dir() else [source]
        found = next((place for place in places if place.is_file()), None)
        if found is None:
            raise FileNotFoundError(
                f"VisDial's split {split} is not there; looked for {', '.join(map(str, places))}. It comes from "
                "visualdialog.org/data."
            )
        dense = found.with_name(f"{found.stem}_dense_annotations.json")
        self.file, self.dense = found, dense if dense.is_file() else None
        self.files = [path for path in (self.file, self.dense) if path]
        self.report = self._new_report()

    def _new_report(self) -> ReadReport:
        return ReadReport(str(self.source), {} if self.limit else {"dialogues": PUBLISHED[self.split]})

    def __iter__(self) -> Iterator[VisDialDialog]:
        report = self._new_report()
        try:
            whole = json.loads(self.file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{self.file}: not whole JSON ({error}). Fetch it anew.") from error
        is_text = isinstance(whole, list)
        if not is_text and not (isinstance(whole, dict) and isinstance(whole.get("data"), dict)):
            raise ValueError(f"{self.file} is neither VisDial v1.0 (data.dialogs) nor ChatIR's list of dialogues.")
        records = whole if is_text else whole["data"]["dialogs"]
        relevance = {} if is_text or self.dense is None else _dense(self.dense)
        for number, record in enumerate(records):
            if self.limit is not None and report.found["dialogues"] >= self.limit:
                break
            try:
                dialog = (
                    self._from_text(record)
                    if is_text
                    else self._official(record, whole["data"], relevance.get(str(record["image_id"])))
                )
            except (KeyError, TypeError, ValueError, IndexError) as error:
                report.lose(f"malformed dialogue ({type(error).__name__}: {error})", str(number))
                continue
            report.found["dialogues"] += 1
            if dialog.picture is None:
                report.lose("image is missing", dialog.image_id)
            else:
                report.found["pictures"] += 1
            report.found["dense annotations"] += any(part.relevance is not None for part in dialog.rounds)
            yield dialog
        if not is_text and self.split == "val" and self.dense is None:
            report.lose("no dense annotations", f"{self.file.stem}_dense_annotations.json")
        self.report = report

    def _official(self, record: dict, data: dict, dense: tuple[int, tuple[float, ...]] | None) -> VisDialDialog:
        questions, answers, rounds = data["questions"], data["answers"], []
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
        picture = self._picture(*(name.format(record["image_id"]) for name in _IMAGES[self.split]))
        return VisDialDialog(str(record["image_id"]), picture, record.get("caption", ""), tuple(rounds))

    def _from_text(self, record: dict) -> VisDialDialog:
        caption, *rounds = record["dialog"]
        found = []
        for line in rounds:
            question, mark, answer = line.partition("? ")
            found.append(VisDialRound(question if mark else line.removesuffix("?"), answer.strip()))
        return VisDialDialog(record["img"], self._picture(record["img"]), caption, tuple(found))

    def _picture(self, *names: str) -> Path | None:
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


__all__ = ["OPTIONS", "PUBLISHED", "VisDial", "VisDialDialog", "VisDialRound"]
