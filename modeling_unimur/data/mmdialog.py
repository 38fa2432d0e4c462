"""MMDialog (Feng et al., ACL 2023): dialogues whose turns are texts and images.

The set is given out by its authors on request and may not be passed on; this reads the folder that they send, or the
one that PaCE (Li et al., ACL 2023) made of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from .dialog_schema import Dialog, ReadReport, Turn
from .json_stream import read_json_records

# Counts of the figures in github.com/victorsungo/MMDialog.
PUBLISHED = {
    "train": {"dialogues": 1_059_117, "turns": 4_825_053, "pictures": 1_509_284},
    "valid": {"dialogues": 10_000, "turns": 45_382, "pictures": 23_812},
    "test": {"dialogues": 10_000, "turns": 45_801, "pictures": 23_772},
}
# Candidates beside each right one, in `valid` and `test`.
NEGATIVES = 999
_SPLITS = {"train": ("train",), "valid": ("valid", "val", "validation"), "test": ("test",)}
_TEXT, _MEDIA = "__TEXT__", "__MEDIA__"
# Conversations and images of a split: the authors' folder, and PaCE's.
_LAYOUTS = (
    ("{split}/conversations.json", "{split}"),
    ("MMDialogConversations/{split}/simple_conversations.json", "MMDialogImage/{split}"),
    ("MMDialogConversations/{split}/conversations.json", "MMDialogImage/{split}"),
)


class MMDialog:
    """One split, read as often as it is iterated, one dialogue in memory at a time.

    Args:
        folder: with the splits' folders, in either layout.
        split: `train`, `valid` (or `val`) or `test`.
        limit: read only so many dialogues.
        emojis: write `:smiling_face:` as the emoji that it stands for.

    Attributes:
        report (`ReadReport`): of the last whole iteration.
        conversations, image_folder (`Path`): what is read.

    Raises:
        FileNotFoundError: the split is not there: the message names the places where it was looked for.
        ValueError: an unknown split.
        ImportError: `emojis` without the package emoji.
    """

    def __init__(
        self, folder: str | os.PathLike, split: str = "test", limit: int | None = None, emojis: bool = False
    ) -> None:
        self.folder, self.limit = Path(folder).expanduser(), limit
        self.split = next((name for name, spellings in _SPLITS.items() if split in spellings), None)
        if self.split is None:
            raise ValueError(f"MMDialog has no split {split!r}: choose from {', '.join(_SPLITS)}.")
        places = [
            (self.folder / file.format(split=name), self.folder / pictures.format(split=name))
            for name in _SPLITS[self.split]
            for file, pictures in _LAYOUTS
        ]
        places.append((self.folder / "conversations.json", self.folder))  # the split's own folder
        found = next((place for place in places if place[0].is_file()), None)
        if found is None:
            tried = ", ".join(str(place) for place, _ in places)
            raise FileNotFoundError(
                f"MMDialog's split {self.split} is not in {self.folder}; looked for {tried}. Ask its authors for the "
                "set (github.com/victorsungo/MMDialog) and name the folder that holds train, valid and test."
            )
        self.conversations, self.image_folder = found
        self._emojize = _emojizer() if emojis else None
        self.report = self._new_report()

    def _new_report(self) -> ReadReport:
        published = {} if self.limit else PUBLISHED[self.split]
        return ReadReport(str(self.folder), published)

    def picture(self, image_id: str) -> Path:
        """Where an image lies, or should."""
        return self.image_folder / f"{image_id}.jpg"

    def __iter__(self) -> Iterator[Dialog]:
        report, seen = self._new_report(), set()
        for number, record in enumerate(read_json_records(self.conversations)):
            if self.limit is not None and report.found["dialogues"] >= self.limit:
                break
            try:
                dialog = self._dialog(record)
            except (KeyError, TypeError, ValueError) as error:
                report.lose(f"malformed dialogue ({error})", str(_id_of(record, number)))
                continue
            report.found["dialogues"] += 1
            report.found["turns"] += len(dialog.turns)
            for image_id in (name for turn in dialog.turns for name in turn.image_ids):
                if image_id in seen:
                    continue
                seen.add(image_id)
                if self.picture(image_id).is_file():
                    report.found["pictures"] += 1
                else:
                    report.lose("image is missing", self.picture(image_id).name)
            if self.split != "train":
                for kind, given in (("text", dialog.negative_texts), ("picture", dialog.negative_images)):
                    if len(given) != NEGATIVES:
                        report.lose(f"not {NEGATIVES} negative {kind}s", f"{dialog.dialog_id} ({len(given)})")
            yield dialog
        self.report = report

    def _dialog(self, record: dict) -> Dialog:
        turns = tuple(
            Turn(str(number % 2), tuple(map(self._element, turn["turn"])))  # no names are given; they take turns
            for number, turn in enumerate(record["conversation"])
        )
        if not turns or not all(turn.elements for turn in turns):
            raise ValueError("a turn is empty")
        texts = tuple(map(self._words, record.get("negative_candidate_texts") or ()))
        images = tuple(map(str, record.get("negative_candidate_media_keys") or ()))
        return Dialog(str(record["conversation_id"]), turns, texts, images)

    def _element(self, part: dict) -> tuple[str, str]:
        if len(part) != 1:
            raise ValueError("a part of a turn is not one text or one image")
        ((kind, value),) = part.items()
        if kind == _MEDIA:
            return "image", str(value)  # signed numbers: many begin with a minus
        if kind != _TEXT:
            raise ValueError(f"a part of kind {kind}")
        return "text", self._words(value)

    def _words(self, text: str) -> str:
        return text if self._emojize is None else self._emojize(text)


def _id_of(record: dict, number: int):
    return record.get("conversation_id", f"number {number}")


def _emojizer():
    try:
        import emoji
    except ImportError as error:
        raise ImportError("Writing emoji needs the package emoji: `pip install unimur[demo]`.") from error
    return lambda text: emoji.emojize(text, language="alias")


__all__ = ["NEGATIVES", "PUBLISHED", "MMDialog"]
