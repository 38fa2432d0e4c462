"""200 short dialogues written by hand, each with a reply and an image that training never sees."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any, TypedDict

from ..data.json_lines import parse_json
from ..data.text_lines import scan_lines

if TYPE_CHECKING:
    from datasets import Dataset

# Which split of `split_by_title` holds the images of each part.
GALLERY_SPLITS = {"dev": "validation", "test": "test"}

_TEXTS = ("dialogue_id", "gold_image", "gold_text", "topic", "kind")
_LISTS = ("right_images", "names")
_FIELDS = {*_TEXTS, *_LISTS, "turns"}


class Message(TypedDict):
    """A chat message: parts are `{"type": "text", "text": str}` and `{"type": "image", "image": str}`."""

    role: str
    content: list[dict[str, str]]


@dataclass(frozen=True)
class DialogueExample:
    """A dialogue whose next reply is wanted.

    Attributes:
        dialogue_id: `dev-001`, `test-042`.
        messages: two to six turns as chat messages; the reply comes from the speaker who did not speak last. The
            `image` of a part is the path of a file.
        gold_image_id: the image of the reply.
        right_image_ids: all images that answer equally well, `gold_image_id` first.
        gold_text: the reply.
        topic: what it is about: `animals`, `food`, `weather`, ...
        kind: how it leads to the image: `description`, `correction`, `picture-in-context`, `topic-switch`, ...
        names: words beside the image's title that name what is shown; like those of the title they do not occur in
            `messages`.
        context_image_ids: the images in `messages`, in order.
        image_paths: files of all images above, by id.
    """

    dialogue_id: str
    messages: list[Message]
    gold_image_id: str
    right_image_ids: tuple[str, ...]
    gold_text: str
    topic: str
    kind: str
    names: tuple[str, ...]
    context_image_ids: tuple[str, ...]
    image_paths: Mapping[str, str]

    @property
    def gold_image(self) -> str:
        """Path of the gold image."""
        return self.image_paths[self.gold_image_id]


def load_dialogue_benchmark(split: str, gallery: Dataset | None = None) -> list[DialogueExample]:
    """The dialogues of one part, with the paths of their images.

    Args:
        split: `dev`, to choose by, or `test`, to report.
        gallery: images with the columns `image_id` and `image`; `benchmark_gallery(split)` by default.

    Raises:
        ValueError: an unknown split, or images that the gallery lacks: the message names them.
        PackageUnavailable: none of the sources of images can be brought.
    """
    records = read_dialogues(split)
    gallery = benchmark_gallery(split) if gallery is None else gallery
    paths = dict(zip(gallery["image_id"], gallery["image"], strict=True))
    _refuse_missing(split, {name for record in records for name in _picture_ids(record)} - paths.keys())
    return [_example(record, paths) for record in records]


def benchmark_gallery(split: str) -> Dataset:
    """The images among which the dialogues of a part retrieve, always the same: one split by title, of every source.

    The ids are kept in a file, so that recall means the same where a reader of a source learns to bring more images.

    Returns:
        `image_id, image (path), title, ...` as `load_captioned_images` gives them: 300 for `dev`, 619 for `test`.

    Raises:
        ValueError: an unknown split, or images that cannot be brought here: the message names them.
        PackageUnavailable: none of the sources can be brought.
    """
    ids = gallery_ids(split)
    from ..data.captioned_images import load_captioned_images

    pictures = load_captioned_images()
    rows = {name: number for number, name in enumerate(pictures["image_id"])}
    _refuse_missing(split, set(ids) - rows.keys())
    return pictures.select([rows[name] for name in ids])


def gallery_ids(split: str) -> list[str]:
    """Ids of the images among which the dialogues of a part retrieve.

    Raises:
        ValueError: an unknown split.
    """
    return _lines(split, "gallery_{}.txt")


def read_dialogues(split: str) -> list[dict[str, Any]]:
    """The records of one part as they are written, with ids in place of paths.

    Raises:
        ValueError: an unknown split, or a line that is not such a record: the message names file and line.
    """
    lines = _lines(split, "dialogues_{}.jsonl")
    return [
        parse_dialogue(line, where=f"dialogues_{split}.jsonl, line {number}")
        for number, line in enumerate(lines, start=1)
    ]


def parse_dialogue(line: str, *, where: str = "dialogue") -> dict[str, Any]:
    """One JSON line as a record whose fields and types are right.

    Args:
        line: the line.
        where: begins the message of an error.

    Raises:
        ValueError: no JSON object, fields that lack or are unknown, or a value of another type.
    """
    try:
        record = parse_json(line)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    if not isinstance(record, dict) or record.keys() != _FIELDS:
        found = sorted(record) if isinstance(record, dict) else type(record).__name__
        raise ValueError(f"{where}: needs exactly the fields {sorted(_FIELDS)}, found {found}")
    for field in _TEXTS:
        if not isinstance(record[field], str) or not record[field].strip():
            raise ValueError(f"{where}: `{field}` must be a text that is not empty, found {record[field]!r}")
    for field in _LISTS:
        if not isinstance(record[field], list) or not all(isinstance(value, str) for value in record[field]):
            raise ValueError(f"{where}: `{field}` must be a list of texts, found {record[field]!r}")
    if not isinstance(record["turns"], list) or not all(_is_turn(turn) for turn in record["turns"]):
        raise ValueError(
            f"{where}: `turns` must be a list of {{'role': 'user' or 'assistant', 'content': [parts]}}, and a part "
            "{'type': 'text', 'text': ...} or {'type': 'image', 'image': an id}"
        )
    return record


def _is_turn(turn: object) -> bool:
    if not isinstance(turn, dict) or turn.keys() != {"role", "content"} or turn["role"] not in ("user", "assistant"):
        return False
    parts = turn["content"]
    return isinstance(parts, list) and len(parts) > 0 and all(_is_part(part) for part in parts)


def _is_part(part: object) -> bool:
    if not isinstance(part, dict) or part.get("type") not in ("text", "image"):
        return False
    value = part.get(part["type"])
    return part.keys() == {"type", part["type"]} and isinstance(value, str) and bool(value.strip())


def _lines(split: str, name: str) -> list[str]:
    if split not in GALLERY_SPLITS:
        raise ValueError(f"unknown part {split!r} of the dialogues: choose from {', '.join(GALLERY_SPLITS)}")
    with files(__package__).joinpath("data", name.format(split)).open("rb") as file:
        return [line.text for line in scan_lines(file)]


def _refuse_missing(split: str, missing: Collection[str]) -> None:
    if missing:
        sources = ", ".join(sorted({name.partition("/")[0] for name in missing}))
        raise ValueError(
            f"{len(missing)} images that the {split} dialogues need are not there, such as {min(missing)!r}: recall "
            f"over a smaller gallery would mean something else. Sources to bring: {sources}"
        )


def _context_ids(record: Mapping[str, Any]) -> list[str]:
    return [part["image"] for turn in record["turns"] for part in turn["content"] if part["type"] == "image"]


def _picture_ids(record: Mapping[str, Any]) -> list[str]:
    return [record["gold_image"], *record["right_images"], *_context_ids(record)]


def _example(record: Mapping[str, Any], paths: Mapping[str, str]) -> DialogueExample:
    messages: list[Message] = [
        {
            "role": turn["role"],
            "content": [
                {"type": "image", "image": paths[part["image"]]} if part["type"] == "image" else dict(part)
                for part in turn["content"]
            ],
        }
        for turn in record["turns"]
    ]
    return DialogueExample(
        dialogue_id=record["dialogue_id"],
        messages=messages,
        gold_image_id=record["gold_image"],
        right_image_ids=(record["gold_image"], *record["right_images"]),
        gold_text=record["gold_text"],
        topic=record["topic"],
        kind=record["kind"],
        names=tuple(record["names"]),
        context_image_ids=tuple(_context_ids(record)),
        image_paths={name: paths[name] for name in _picture_ids(record)},
    )


__all__ = [
    "GALLERY_SPLITS",
    "DialogueExample",
    "Message",
    "benchmark_gallery",
    "gallery_ids",
    "load_dialogue_benchmark",
    "parse_dialogue",
    "read_dialogues",
]
