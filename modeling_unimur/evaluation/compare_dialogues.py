"""Dialogues with their relevant answers, and the candidates: those of this package, or a user's own.

This package has 200 short dialogues written by hand, each with a reply and an image that training never sees.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..conversation import read_conversation
from ..data.json_lines import parse_json, read_json_lines
from ..data.registry import TEXTS, find_loader
from ..data.text_lines import scan_lines
from .systems.base import Gallery

if TYPE_CHECKING:
    from datasets import Dataset

# Which split of `split_by_title` holds the images of each part of the hand-written dialogues.
GALLERY_SPLITS = {"dev": "validation", "test": "test"}

_FIELDS = "turns (chat messages), and gold_text or gold_image; dialogue_id and right_images if you like"


@dataclass(frozen=True)
class ComparedDialogue:
    """A dialogue and its relevant text and images.

    Args:
        dialogue_id: id of the dialogue.
        messages: chat messages whose `content` is a list of parts; the `image` of a part is a path.
        right_text: the reply; None where there is no gold one.
        right_images: ids of the images that are right.
    """

    dialogue_id: str
    messages: tuple[dict, ...]
    right_text: str | None
    right_images: tuple[str, ...]


# -- the hand-written dialogues ---------------------------------------------------------------------------------------
def read_own(split: str) -> list[dict[str, Any]]:
    """Reads the hand-written dialogues of one part, with ids in place of paths.

    Raises:
        ValueError: an unknown part.
    """
    return [parse_json(line) for line in _own_lines(split, "dialogues_{}.jsonl")]


def gallery_ids(split: str) -> list[str]:
    """Returns the ids of the candidate images of a part of the hand-written dialogues.

    Raises:
        ValueError: an unknown part.
    """
    return _own_lines(split, "gallery_{}.txt")


def _own_lines(split: str, name: str) -> list[str]:
    if split not in GALLERY_SPLITS:
        raise ValueError(f"unknown part {split!r} of the dialogues: choose from {', '.join(GALLERY_SPLITS)}")
    with files(__package__).joinpath("data", name.format(split)).open("rb") as file:
        return [line.value for line in scan_lines(file)]


def benchmark_gallery(split: str) -> Dataset:
    """Loads the candidate images of a part of the hand-written dialogues: the images of one split by title, of every
    source, always the same ones.

    The ids are kept in a file, so that recall means the same where a reader of a source learns to bring more images.

    Returns:
        `image_id, image (path), title, ...` as `load_captioned_images` gives them: 300 for `dev`, 619 for `test`.

    Raises:
        ValueError: an unknown part, or images that cannot be brought here: the message names their sources.
        PackageUnavailable: none of the sources can be brought.
    """
    from ..data.captioned_images import load_captioned_images

    ids, images = gallery_ids(split), load_captioned_images()
    rows = {name: number for number, name in enumerate(images["image_id"])}
    missing = set(ids) - rows.keys()
    if missing:
        sources = ", ".join(sorted({name.partition("/")[0] for name in missing}))
        raise ValueError(
            f"{len(missing)} images that the {split} dialogues need are not there, such as {min(missing)!r}: recall "
            f"over a smaller gallery would mean something else. Sources to bring: {sources}"
        )
    return images.select([rows[name] for name in ids])


def own_dialogues(split: str) -> tuple[list[ComparedDialogue], Gallery]:
    """Loads the hand-written dialogues of `dev` or `test`; candidates are all images of that split and all gold texts.

    Raises:
        ValueError, PackageUnavailable: as `benchmark_gallery`.
    """
    records, images = read_own(split), benchmark_gallery(split)
    known = dict(zip(images["image_id"], images["image"], strict=True))
    dialogues = [_dialogue(record, f"dialogues_{split}", number, known) for number, record in enumerate(records)]
    return dialogues, gallery_of(images, dialogues)


def chat_dialogues(split: str) -> tuple[list[ComparedDialogue], Gallery]:
    """Loads the chats of `validation` or `test`, as `text_dialogues`.

    Raises:
        ValueError: there is no such split.
        PackageUnavailable: the chats cannot be fetched.
    """
    chats = find_loader("chats", TEXTS)()
    if split not in chats:
        raise ValueError(f"There is no split {split!r} of the chats: choose from {', '.join(chats)}.")
    return text_dialogues(chats[split])


def text_dialogues(rows: Iterable[dict]) -> tuple[list[ComparedDialogue], Gallery]:
    """Converts rows with `dialogue_id`, `turns` (messages whose content is a text) and `target_text`; candidates are
    the replies of all of them, and no images."""
    dialogues = [
        ComparedDialogue(row["dialogue_id"], tuple(map(_in_parts, row["turns"])), row["target_text"], ())
        for row in rows
    ]
    return dialogues, gallery_of({"image_id": [], "image": [], "title": [], "tags": []}, dialogues)


def gallery_of(images, dialogues: Sequence[ComparedDialogue]) -> Gallery:
    """Makes the candidates from images (a table with `image_id, image, title, tags`) and the dialogues' gold texts."""
    texts = tuple(dict.fromkeys(d.right_text for d in dialogues if d.right_text is not None))
    rows = zip(images["title"], images["tags"], strict=True)
    words = tuple(", ".join([title, *tags]) for title, tags in rows)
    return Gallery(texts, tuple(images["image_id"]), tuple(images["image"]), words)


def read_dialogues_file(path: str | os.PathLike, gallery: str | os.PathLike | None = None):
    """Reads a user's own dialogues.

    Args:
        path: JSON lines with the fields of this package's own dialogues, of which `turns`, and `gold_text` or
            `gold_image`, are enough. An image is named by its path below the gallery's folder, or from where the
            file lies.
        gallery: folder of the candidate images (`captions.tsv` in it gives their words, else their names do);
            without one the images that the dialogues want compete with one another.

    Returns:
        `tuple[list[ComparedDialogue], Gallery]`: candidates are the gallery's images and all gold texts.

    Raises:
        FileNotFoundError: the file, the folder or an image that a dialogue names is not there.
        ValueError: a line that is no such record, or no line: the message names it.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"There are no dialogues {path}: give a file of JSON lines, or dev, test or chats.")
    records = []
    for number, value in read_json_lines(path):
        where = f"{path.name}, line {number}"
        records.append((where, _record(value, where)))
    if not records:
        raise ValueError(f"{path} contains no dialogue: write one per line, with {_FIELDS}.")
    images = _images(gallery, [name for _, record in records for name in _wanted(record)], path.parent)
    known = dict(zip(images["image_id"], images["image"], strict=True))
    folder = None if gallery is None else Path(gallery).expanduser()
    dialogues = [
        _dialogue(record, where, number, known, folder, path.parent) for number, (where, record) in enumerate(records)
    ]
    return dialogues, gallery_of(images, dialogues)


def _record(record: Any, where: str) -> dict:
    if not isinstance(record, dict) or not isinstance(record.get("turns"), list) or not record["turns"]:
        raise ValueError(f"{where}: a dialogue has {_FIELDS}.")
    text, image, right = record.get("gold_text"), record.get("gold_image"), record.get("right_images") or []
    if any(value is not None and (not isinstance(value, str) or not value.strip()) for value in (text, image)):
        raise ValueError(f"{where}: gold_text and gold_image are texts that are not empty.")
    if not isinstance(right, list) or not all(isinstance(name, str) for name in right):
        raise ValueError(f"{where}: right_images is a list of images, not {right!r:.80}.")
    if text is None and image is None:
        raise ValueError(f"{where}: neither gold_text nor gold_image, so nothing can be right. Add one of them.")
    return record


def _wanted(record: dict) -> list[str]:
    image = record.get("gold_image")
    return [] if image is None else list(dict.fromkeys([image, *(record.get("right_images") or [])]))


def _images(gallery, wanted: Sequence[str], beside: Path) -> dict[str, list]:
    """Returns the columns `image_id, image, title, tags` of the candidates; ids are paths below the gallery."""
    if gallery is None:
        rows = {name: (str(beside / name), Path(name).stem) for name in wanted}
    else:
        from ..data.captioned_images import load_image_folder

        folder, rows = Path(gallery).expanduser(), {}
        table = load_image_folder(str(folder))
        for path, title in zip(table["image"], table["title"], strict=True):
            inside = folder.absolute() in Path(path).parents
            name = Path(path).relative_to(folder.absolute()).as_posix() if inside else path
            rows.setdefault(name, (path, title))
    paths, titles = ([row[column] for row in rows.values()] for column in (0, 1))
    return {"image_id": list(rows), "image": paths, "title": titles, "tags": [[]] * len(rows)}


def _dialogue(record: dict, where: str, number: int, known: dict, *folders: Path | None) -> ComparedDialogue:
    """Converts a record whose images are named by the ids of `known`, or by paths below one of the folders."""

    def locate(part: dict) -> dict:
        if not isinstance(part, dict) or part.get("type") != "image" or not isinstance(part.get("image"), str):
            return part
        name = part["image"]
        places = [Path(known[name])] if name in known else [base / name for base in folders if base]
        found = next((place for place in places if place.is_file()), None)
        if found is None:
            raise FileNotFoundError(f"{where}: the image {name} is not at {' nor at '.join(map(str, places))}.")
        return {"type": "image", "image": str(found)}

    turns = [
        {**turn, "content": list(map(locate, turn["content"]))}
        if isinstance(turn, dict) and isinstance(turn.get("content"), list)
        else turn
        for turn in record["turns"]
    ]
    read_conversation(turns, where)  # whatever is wrong with a message is said now
    messages = tuple(map(_in_parts, turns))
    missing = [name for name in _wanted(record) if name not in known]
    if missing:
        raise FileNotFoundError(
            f"{where}: the image {missing[0]} is not among the {len(known)} candidates: name it by its path below "
            "the gallery's folder."
        )
    return ComparedDialogue(
        str(record.get("dialogue_id", number + 1)), messages, record.get("gold_text"), tuple(_wanted(record))
    )


def _in_parts(turn: dict) -> dict:
    """Returns a chat message whose content is a list of parts."""
    content = [turn["content"]] if isinstance(turn["content"], str) else turn["content"]
    parts = [part if isinstance(part, dict) else {"type": "text", "text": part} for part in content]
    return {"role": turn["role"], "content": parts}


def load_compared(source: str | os.PathLike, gallery: str | os.PathLike | None = None):
    """`own_dialogues` for `dev` or `test`, `chat_dialogues` for `chats`, `read_dialogues_file` for a file.

    Raises:
        ValueError: a gallery for `dev`, `test` or `chats`, which have theirs.
    """
    name = os.fspath(source)
    if name not in (*GALLERY_SPLITS, "chats"):
        return read_dialogues_file(source, gallery)
    if gallery is not None:
        raise ValueError(f"The dialogues of {source} have their own gallery: leave the gallery out.")
    return chat_dialogues("test") if name == "chats" else own_dialogues(name)
