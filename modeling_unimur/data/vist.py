"""VIST, stories in sequence (Huang et al., NAACL 2016): five images and a sentence for each."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .dialog_schema import Dialog, ReadReport, Turn

# Stories of the files in SIS-with-labels.tar.gz; 50,200 in all, as the paper says.
PUBLISHED = {"train": 40_155, "val": 4_990, "test": 5_055}
LENGTH = 5
_SUFFIXES = (".jpg", ".jpeg", ".png", ".gif")
_FOLDERS = ("images/{}", "{}", "images", "{}-images")


@dataclass(frozen=True)
class Story:
    """One story.

    Args:
        story_id: of the story; several stories may be told of the same images.
        sentences: in order.
        image_ids: one image a sentence.
    """

    story_id: str
    sentences: tuple[str, ...]
    image_ids: tuple[str, ...]

    def dialog(self) -> Dialog:
        """In the schema of all sets: a turn a sentence, with its image."""
        pairs = zip(self.sentences, self.image_ids, strict=True)
        return Dialog(self.story_id, tuple(Turn("0", (("text", text), ("image", name))) for text, name in pairs))


class VIST:
    """One split.

    Args:
        folder: with `sis/<split>.story-in-sequence.json` (or the file itself in it), and the images in
            `images/<split>`, `<split>` or `images`, named by their Flickr number.
        split: `train`, `val` or `test`.
        limit: read only so many stories.
        text: `text`, in which names are replaced by `[male]` and the like, as FROMAGe reads it, or `original_text`.

    Attributes:
        report (`ReadReport`): of the last whole iteration.
        files (`list[Path]`): what is read.

    Raises:
        FileNotFoundError: no such file: the message names the places where it was looked for.
        ValueError: an unknown split or text.
    """

    def __init__(
        self, folder: str | os.PathLike, split: str = "val", limit: int | None = None, text: str = "text"
    ) -> None:
        if split not in PUBLISHED:
            raise ValueError(f"VIST has no split {split!r}: choose from {', '.join(PUBLISHED)}.")
        if text not in ("text", "original_text"):
            raise ValueError(f"text is 'text' or 'original_text', not {text!r}.")
        self.folder, self.split, self.limit, self._text = Path(folder).expanduser(), split, limit, text
        name = f"{split}.story-in-sequence.json"
        places = [self.folder / "sis" / name, self.folder / name]
        found = next((place for place in places if place.is_file()), None)
        if found is None:
            raise FileNotFoundError(
                f"VIST's split {split} is not there; looked for {', '.join(map(str, places))}. It comes from "
                "visionandlanguage.net/VIST (SIS-with-labels)."
            )
        self.files = [found]
        self._folders = [self.folder / pattern.format(split) for pattern in _FOLDERS]
        self.report = self._new_report()

    def _new_report(self) -> ReadReport:
        return ReadReport(str(self.folder), {} if self.limit else {"stories": PUBLISHED[self.split]})

    def picture(self, image_id: str) -> Path | None:
        """Where an image lies; None where it is missing, as many have gone from Flickr."""
        places = (folder / f"{image_id}{suffix}" for folder in self._folders for suffix in _SUFFIXES)
        return next((place for place in places if place.is_file()), None)

    def __iter__(self) -> Iterator[Story]:
        report, parts = self._new_report(), defaultdict(list)
        try:
            annotations = json.loads(self.files[0].read_text(encoding="utf-8"))["annotations"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self.files[0]} is no file of stories in sequence ({error!r}).") from error
        for entry in annotations:
            (part,) = entry  # each stands in a list of its own
            parts[str(part["story_id"])].append(
                (int(part["worker_arranged_photo_order"]), part[self._text], str(part["photo_flickr_id"]))
            )
        seen = set()
        for story_id, sentences in parts.items():
            if self.limit is not None and report.found["stories"] >= self.limit:
                break
            if len(sentences) != LENGTH:
                report.lose(f"not {LENGTH} sentences", story_id)
                continue
            sentences.sort()
            story = Story(story_id, tuple(text for _, text, _ in sentences), tuple(name for *_, name in sentences))
            report.found["stories"] += 1
            for image_id in set(story.image_ids) - seen:
                seen.add(image_id)
                if self.picture(image_id) is None:
                    report.lose("image is missing", image_id)
                else:
                    report.found["pictures"] += 1
            yield story
        self.report = report


__all__ = ["LENGTH", "PUBLISHED", "VIST", "Story"]
