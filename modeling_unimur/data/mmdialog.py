"""MMDialog (Feng et al., ACL 2023): dialogues whose turns are texts and images.

The set is given out by its authors on request and may not be passed on; this reads the folder that they send, or the
one that PaCE (Li et al., ACL 2023) made of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from .dialog_schema import Dialog, PublishedSet, ReadReport, Turn
from .json_lines import read_json_records

# Counts of the figures in github.com/victorsungo/MMDialog.
PUBLISHED = {
    "train": {"dialogues": 1_059_117, "turns": 4_825_053, "images": 1_509_284},
    "valid": {"dialogues": 10_000, "turns": 45_382, "images": 23_812},
    "test": {"dialogues": 10_000, "turns": 45_801, "images": 23_772},
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


class MMDialog(PublishedSet):
    """Dialogues of one split (`train`, `valid` or `test`), one in memory at a time, from a folder with the splits'
    folders in either layout.

    Raises:
        FileNotFoundError: the split is not there: the message names the places where it was looked for.
        ValueError: an unknown split.
    """

    title = "MMDialog"
    origin = (
        "Ask its authors for the set (github.com/victorsungo/MMDialog) and name the folder that holds train, valid "
        "and test."
    )
    published = PUBLISHED

    def __init__(self, folder: str | os.PathLike, split: str = "test", limit: int | None = None) -> None:
        self.require_split(split, [spelling for spellings in _SPLITS.values() for spelling in spellings])
        super().__init__(folder, next(name for name, spellings in _SPLITS.items() if split in spellings), limit)
        places = {
            self.folder / file.format(split=name): self.folder / images.format(split=name)
            for name in _SPLITS[self.split]
            for file, images in _LAYOUTS
        }
        places[self.folder / "conversations.json"] = self.folder  # the split's own folder
        self.files = [self.first_there(places)]
        self.image_folder = places[self.files[0]]

    def image(self, image_id: str) -> Path:
        """Return the path of an image, which may be missing."""
        return self.image_folder / f"{image_id}.jpg"

    def records(self, report: ReadReport) -> Iterator[tuple[str, Callable[[], Dialog]]]:
        """Yield the conversations by id."""
        for number, record in enumerate(read_json_records(self.files[0])):
            yield str(record.get("conversation_id", f"number {number}")), partial(_dialog, record)

    def images_of(self, item: Dialog) -> Iterable[tuple[str, bool]]:
        """Return the image files of all turns."""
        files = (self.image(image_id) for turn in item.turns for image_id in turn.image_ids)
        return ((file.name, file.is_file()) for file in files)

    def note(self, item: Dialog, report: ReadReport) -> None:
        """Count the turns and the missing candidates."""
        report.found["turns"] += len(item.turns)
        if self.split != "train":
            for kind, given in (("text", item.negative_texts), ("image", item.negative_images)):
                if len(given) != NEGATIVES:
                    report.lose(f"not {NEGATIVES} negative {kind}s", f"{item.dialog_id} ({len(given)})")


def _dialog(record: dict) -> Dialog:
    turns = tuple(
        Turn(str(number % 2), tuple(map(_element, turn["turn"])))  # no names are given; they take turns
        for number, turn in enumerate(record["conversation"])
    )
    if not turns or not all(turn.elements for turn in turns):
        raise ValueError("a turn is empty")
    texts = tuple(record.get("negative_candidate_texts") or ())
    images = tuple(map(str, record.get("negative_candidate_media_keys") or ()))
    return Dialog(str(record["conversation_id"]), turns, texts, images)


def _element(part: dict) -> tuple[str, str]:
    if len(part) != 1:
        raise ValueError("a part of a turn is not one text or one image")
    ((kind, value),) = part.items()
    if kind == _MEDIA:
        return "image", str(value)  # signed numbers: many begin with a minus
    if kind != _TEXT:
        raise ValueError(f"a part of kind {kind}")
    return "text", value
