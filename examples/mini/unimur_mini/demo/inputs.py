"""The files that a demo reads: dialogues (JSON lines of chat messages) and replies (one per line)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from modeling_unimur.cli.errors import CommandError
from modeling_unimur.cli.gallery import GalleryImage
from modeling_unimur.data.json_lines import read_json_lines
from modeling_unimur.data.text_lines import read_lines

from .results import Turn

# The dialogues and replies that the demo answers by default.
EXAMPLE_DIALOGUES = Path(__file__).with_name("dialogues.jsonl")
EXAMPLE_REPLIES = Path(__file__).with_name("replies.txt")

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Dialogue:
    """A conversation whose images are still references."""

    title: str
    messages: tuple[dict, ...]

    def image_ids(self) -> list[str]:
        """Ids of the images that come from the image collections."""
        parts = [
            part for message in self.messages if isinstance(message["content"], list) for part in message["content"]
        ]
        return [part["image_id"] for part in parts if "image_id" in part]

    def resolved(self, images: Mapping[str, GalleryImage]) -> tuple[tuple[Turn, ...], list[dict]]:
        """The turns to show, and the chat messages (images as paths) to ask the model with.

        Args:
            images: the image for each of `image_ids()`.
        """
        turns, messages = [], []
        for message in self.messages:
            content = message["content"]
            if isinstance(content, str):
                turns.append(Turn(message["role"], (content,)))
                messages.append({"role": message["role"], "content": content})
                continue
            shown, asked = [], []
            for part in content:
                if part["type"] == "text":
                    shown.append(part["text"])
                    asked.append({"type": "text", "text": part["text"]})
                    continue
                if "image_id" in part:
                    image = images[part["image_id"]]
                else:
                    image = GalleryImage(Path(part["image"]), Path(part["image"]).stem)
                shown.append(image)
                asked.append({"type": "image", "image": str(image.path)})
            turns.append(Turn(message["role"], tuple(shown)))
            messages.append({"role": message["role"], "content": asked})
        return tuple(turns), messages


def _all_lines(read: Callable, path: Path) -> list:
    """What a reader of lines makes of a file.

    Raises:
        CommandError: if it is missing, a folder, unreadable or not UTF-8, or a line cannot be read.
    """
    try:
        return list(read(path))
    except FileNotFoundError:
        raise CommandError(f"no file at {path}; check its name, or leave the option out for the examples") from None
    except OSError as error:
        raise CommandError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise CommandError(str(error)) from None


def read_replies(path: Path) -> list[str]:
    """The replies of a file in their order, blank lines and repeats left out.

    Raises:
        CommandError: if the file cannot be read or holds no reply.
    """
    replies = list(dict.fromkeys(line.strip() for line in _all_lines(read_lines, path) if line.strip()))
    if not replies:
        raise CommandError(f"{path} holds no reply; write one a line")
    return replies


def read_dialogues(path: Path) -> list[Dialogue]:
    """The dialogues of a JSON lines file; relative image paths are taken from the file's folder.

    Raises:
        CommandError: if the file or a line cannot be used; the message names the line.
    """
    dialogues = []
    for number, record in _all_lines(read_json_lines, path):
        try:
            dialogues.append(_dialogue(record, path.parent, len(dialogues) + 1))
        except ValueError as error:
            raise CommandError(f"{path}, line {number}: {error}") from None
    if not dialogues:
        raise CommandError(f"{path} holds no dialogue; write one JSON object a line")
    return dialogues


def _dialogue(record: object, folder: Path, number: int) -> Dialogue:
    if not isinstance(record, dict) or not isinstance(record.get("messages"), list) or not record["messages"]:
        raise ValueError('a dialogue is {"title": ..., "messages": [...]} with at least one message')
    messages = tuple(_message(message, folder) for message in record["messages"])
    if messages[-1]["role"] != "user":
        raise ValueError(f"the last message must be the user's, not the {messages[-1]['role']}'s")
    return Dialogue(str(record.get("title") or f"Dialogue {number}"), messages)


def _message(message: object, folder: Path) -> dict:
    if not isinstance(message, dict) or message.get("role") not in ROLES:
        raise ValueError(f"a message needs a role out of {', '.join(ROLES)}")
    content = message.get("content")
    if isinstance(content, str):
        return {"role": message["role"], "content": content}
    if not isinstance(content, list) or not content:
        raise ValueError("the content of a message is a text or a list of parts")
    return {"role": message["role"], "content": [_part(part, folder) for part in content]}


def _part(part: object, folder: Path) -> dict:
    if isinstance(part, dict):
        if part.get("type") == "text" and isinstance(part.get("text"), str):
            return {"type": "text", "text": part["text"]}
        if part.get("type") == "image" and isinstance(part.get("image_id"), str):
            return {"type": "image", "image_id": part["image_id"]}
        if part.get("type") == "image" and isinstance(part.get("image"), str):
            path = folder / Path(part["image"]).expanduser()
            if not path.is_file():
                raise ValueError(f"no image at {path}")
            return {"type": "image", "image": str(path)}
    raise ValueError(
        'a part is {"type": "text", "text": ...}, {"type": "image", "image_id": ...} or '
        '{"type": "image", "image": path}'
    )
