"""Dialogues with their right answers, and the candidates: those of this package, or a person's own."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..conversation import read_conversation
from ..data.json_lines import read_json_lines
from ..data.registry import TEXTS, find_loader
from ..image_loading import load_image
from .dialogue_benchmark import GALLERY_SPLITS, DialogueExample, benchmark_gallery, load_dialogue_benchmark
from .systems.base import Gallery

logger = logging.getLogger(__name__)

_FIELDS = "turns (chat messages), and gold_text or gold_image; dialogue_id and right_images if you like"


@dataclass(frozen=True)
class ComparedDialogue:
    """A dialogue and what is right for it.

    Args:
        dialogue_id: of the dialogue.
        messages: chat messages whose `content` is a list of parts; the `image` of a part is a path.
        right_text: the reply; None where there is no gold one.
        right_images: ids of the images that are right, none where there is no gold one.
    """

    dialogue_id: str
    messages: tuple[dict, ...]
    right_text: str | None
    right_images: tuple[str, ...]

    @classmethod
    def from_example(cls, example: DialogueExample) -> ComparedDialogue:
        """One of this package's own dialogues."""
        return cls(example.dialogue_id, tuple(example.messages), example.gold_text, example.right_image_ids)


def own_dialogues(split: str) -> tuple[list[ComparedDialogue], Gallery]:
    """The hand-written dialogues of `dev` or `test`; candidates are all images of that split and all gold texts."""
    pictures = benchmark_gallery(split)
    dialogues = [ComparedDialogue.from_example(example) for example in load_dialogue_benchmark(split, pictures)]
    return dialogues, gallery_of(pictures, dialogues)


def chat_dialogues(split: str) -> tuple[list[ComparedDialogue], Gallery]:
    """Real chats of `validation` or `test`; candidates are the replies of all of them, and no images.

    Raises:
        ValueError: there is no such split.
        PackageUnavailable: the chats cannot be fetched.
    """
    chats = find_loader("chats", TEXTS)()
    if split not in chats:
        raise ValueError(f"There is no split {split!r} of the chats: choose from {', '.join(chats)}.")
    dialogues = [
        ComparedDialogue(
            row["dialogue_id"],
            tuple(
                {"role": turn["role"], "content": [{"type": "text", "text": turn["content"]}]} for turn in row["turns"]
            ),
            row["target_text"],
            (),
        )
        for row in chats[split]
    ]
    return dialogues, gallery_of({"image_id": [], "image": [], "title": [], "tags": []}, dialogues)


def gallery_of(pictures, dialogues: Sequence[ComparedDialogue]) -> Gallery:
    """Candidates out of rows of `load_captioned_images` and the dialogues' gold texts.

    Args:
        pictures: a dataset with `image_id, image, title, tags`.
        dialogues: whose gold texts compete.
    """
    texts = tuple(dict.fromkeys(d.right_text for d in dialogues if d.right_text is not None))
    rows = zip(pictures["title"], pictures["tags"], strict=True)
    words = tuple(", ".join([title, *tags]) for title, tags in rows)
    return Gallery(texts, tuple(pictures["image_id"]), tuple(pictures["image"]), words)


def read_dialogues_file(path: str | os.PathLike, gallery: str | os.PathLike | None = None):
    """A person's own dialogues.

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
    pictures = _pictures(gallery, [name for _, record in records for name in _wanted(record)], path.parent)
    known = dict(zip(pictures["image_id"], pictures["image"], strict=True))
    folder = None if gallery is None else Path(gallery).expanduser()
    dialogues = [
        _dialogue(record, where, number, known, folder, path.parent) for number, (where, record) in enumerate(records)
    ]
    return dialogues, gallery_of(pictures, dialogues)


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


def _pictures(gallery, wanted: Sequence[str], beside: Path) -> dict[str, list]:
    """Columns `image_id, image, title, tags` of the candidates; ids are paths below the gallery."""
    if gallery is not None:
        from ..data.captioned_images import load_image_folder

        folder = Path(gallery).expanduser()
        table = load_image_folder(str(folder))
        rows = {}
        for path, title in zip(table["image"], table["title"], strict=True):
            name = (
                Path(path).relative_to(folder.absolute()).as_posix()
                if folder.absolute() in Path(path).parents
                else path
            )
            rows.setdefault(name, (path, title))
    else:
        rows = {name: (str(beside / name), Path(name).stem) for name in dict.fromkeys(wanted)}
    readable, broken = {}, []
    for name, (path, title) in rows.items():
        try:
            load_image(path)
            readable[name] = (path, title)
        except (ValueError, OSError) as error:
            broken.append(f"{path} ({error})")
    if broken:
        logger.warning("Left out %d images that cannot be read, such as %s", len(broken), broken[0])
    return {
        "image_id": list(readable),
        "image": [path for path, _ in readable.values()],
        "title": [title for _, title in readable.values()],
        "tags": [[] for _ in readable],
    }


def _dialogue(record: dict, where: str, number: int, known: dict, folder: Path | None, beside: Path):
    def locate(part: dict) -> dict:
        if not isinstance(part, dict) or part.get("type") != "image" or not isinstance(part.get("image"), str):
            return part
        name = part["image"]
        places = [Path(known[name])] if name in known else [base / name for base in (folder, beside) if base]
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
    messages = tuple(
        {
            "role": turn["role"],
            "content": [{"type": "text", "text": turn["content"]}]
            if isinstance(turn["content"], str)
            else [part if isinstance(part, dict) else {"type": "text", "text": part} for part in turn["content"]],
        }
        for turn in turns
    )
    missing = [name for name in _wanted(record) if name not in known]
    if missing:
        raise FileNotFoundError(
            f"{where}: the image {missing[0]} is not among the {len(known)} candidates: name it by its path below "
            "the gallery's folder."
        )
    return ComparedDialogue(
        str(record.get("dialogue_id", number + 1)), messages, record.get("gold_text"), tuple(_wanted(record))
    )


def load_compared(source: str | os.PathLike, gallery: str | os.PathLike | None = None):
    """`own_dialogues` for `dev` or `test`, `chat_dialogues` for `chats`, `read_dialogues_file` for a file.

    Raises:
        ValueError: a gallery for `dev`, `test` or `chats`, which have theirs.
    """
    name = os.fspath(source)
    if name in (*GALLERY_SPLITS, "chats"):
        if gallery is not None:
            raise ValueError(f"The dialogues of {source} have their own gallery: leave the gallery out.")
        return chat_dialogues("test") if name == "chats" else own_dialogues(name)
    return read_dialogues_file(source, gallery)


__all__ = [
    "ComparedDialogue",
    "chat_dialogues",
    "gallery_of",
    "load_compared",
    "own_dialogues",
    "read_dialogues_file",
]
