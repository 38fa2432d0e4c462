"""VIST, stories in sequence (Huang et al., NAACL 2016): five images and a sentence for each."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from .dialog_schema import PublishedSet, ReadReport

# Stories of the files in SIS-with-labels.tar.gz; 50,200 in all, as the paper says.
PUBLISHED = {"train": {"stories": 40_155}, "val": {"stories": 4_990}, "test": {"stories": 5_055}}
LENGTH = 5
_SUFFIXES = (".jpg", ".jpeg", ".png", ".gif")
_FOLDERS = ("images/{}", "{}", "images", "{}-images")


@dataclass(frozen=True)
class Story:
    """One story, with an image for each sentence; several stories may be told of the same images."""

    story_id: str
    sentences: tuple[str, ...]
    image_ids: tuple[str, ...]


class VIST(PublishedSet):
    """Stories of one split (`train`, `val` or `test`), in the texts whose names are replaced by `[male]` and the like,
    as FROMAGe reads them.

    Args:
        folder: with `sis/<split>.story-in-sequence.json` (or the file itself in it), and the images in
            `images/<split>`, `<split>` or `images`, named by their Flickr number.

    Raises:
        FileNotFoundError: no such file: the message names the places where it was looked for.
        ValueError: an unknown split.
    """

    title = "VIST"
    origin = "It comes from visionandlanguage.net/VIST (SIS-with-labels)."
    published = PUBLISHED
    item, items = "story", "stories"

    def __init__(self, folder: str | os.PathLike, split: str = "val", limit: int | None = None) -> None:
        super().__init__(folder, split, limit)
        name = f"{split}.story-in-sequence.json"
        self.files = [self.first_there([self.folder / "sis" / name, self.folder / name])]
        self._folders = [self.folder / pattern.format(split) for pattern in _FOLDERS]

    def image(self, image_id: str) -> Path | None:
        """Return the path of an image, or None if it is missing. Many have been removed from Flickr."""
        places = (folder / f"{image_id}{suffix}" for folder in self._folders for suffix in _SUFFIXES)
        return next((place for place in places if place.is_file()), None)

    def records(self, report: ReadReport) -> Iterator[tuple[str, Callable[[], Story]]]:
        """Yield the sentences of each story by id."""
        parts: dict[str, list[dict]] = defaultdict(list)
        try:
            for (part,) in json.loads(self.files[0].read_text(encoding="utf-8"))["annotations"]:
                parts[str(part["story_id"])].append(part)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self.files[0]} is no file of stories in sequence ({error!r}).") from error
        for story_id, sentences in parts.items():
            yield story_id, partial(_story, story_id, sentences)

    def images_of(self, item: Story) -> Iterable[tuple[str, bool]]:
        """Return one image per sentence."""
        return ((image_id, self.image(image_id) is not None) for image_id in item.image_ids)


def _story(story_id: str, sentences: list[dict]) -> Story:
    if len(sentences) != LENGTH:
        raise ValueError(f"not {LENGTH} sentences")
    told = sorted(sentences, key=lambda part: int(part["worker_arranged_photo_order"]))
    return Story(story_id, tuple(part["text"] for part in told), tuple(str(part["photo_flickr_id"]) for part in told))
