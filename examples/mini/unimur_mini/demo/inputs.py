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
# How the dialogues were chosen, for the default model and gallery.
EXAMPLE_NOTE = """Seven of these conversations were written for the demo; three are development conversations. They
were chosen by their answers from the default gallery: the first image fits in the first eight and not in the last two.
The shares on 100 test conversations, which nobody chose, are lower; docs/results.md has them."""
EXAMPLE_REPLIES = Path(__file__).with_name("replies.txt")

ROLES = ("system", "user", "assistant")


class ImageId(str):
    """The id of an image in the collections, which a part of a message gives as `image_id`."""

    __slots__ = ()


@dataclass(frozen=True)
class Dialogue:
    """A conversation: chat messages with a placeholder for each image, and the images.

    Images from the collections are given by their ids.
    """

    title: str
    messages: list[dict]
    images: list[ImageId | GalleryImage]

    def image_ids(self) -> list[str]:
        """Returns the ids of the images that come from the image collections."""
        return [image for image in self.images if isinstance(image, ImageId)]

    def resolved(self, images: Mapping[str, GalleryImage]) -> tuple[tuple[Turn, ...], list[dict]]:
        """Returns the turns to show and the chat messages for the model, in which images are paths.

        `images` holds the images of `image_ids()`.
        """
        found = iter([images[image] if isinstance(image, ImageId) else image for image in self.images])
        turns, messages = [], []
        for message in self.messages:
            shown = [part["text"] if part["type"] == "text" else next(found) for part in message["content"]]
            turns.append(Turn(message["role"], tuple(shown)))
            asked = [
                {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": str(part.path)}
                for part in shown
            ]
            messages.append({"role": message["role"], "content": asked})
        return tuple(turns), messages


def _all_lines(read: Callable, path: Path) -> list:
    """Reads a file with a reader of lines.

    Raises:
        CommandError: if the file is missing, is a folder, or is not readable as UTF-8.
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
    """Reads the replies of a file in their order, without blank lines and repetitions.

    Raises:
        CommandError: if there are no replies.
    """
    replies = list(dict.fromkeys(line.strip() for line in _all_lines(read_lines, path) if line.strip()))
    if not replies:
        raise CommandError(f"{path} holds no reply; write one a line")
    return replies


def read_dialogues(path: Path) -> list[Dialogue]:
    """Reads the dialogues of a JSON lines file. Paths of images may be relative to the file's folder.

    Raises:
        CommandError: if a line is not a valid dialogue. The message names the line.
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
    from modeling_unimur.conversation import read_conversation  # imports transformers

    def load(source: object, allow_urls: bool) -> ImageId | GalleryImage:
        if isinstance(source, ImageId):
            return source
        path = folder / Path(str(source)).expanduser()
        if not path.is_file():
            raise ValueError(f"no image at {path}")
        return GalleryImage(path, path.stem)

    messages, images = read_conversation([_with_ids(message) for message in record["messages"]], load=load)
    for message in messages:
        if message["role"] not in ROLES:
            raise ValueError(f"a message needs a role out of {', '.join(ROLES)}")
    if messages[-1]["role"] != "user":
        raise ValueError(f"the last message must be the user's, not the {messages[-1]['role']}'s")
    return Dialogue(str(record.get("title") or f"Dialogue {number}"), messages, images)


def _with_ids(message: object) -> object:
    """Returns the message with the images from the collections as `ImageId`."""
    if not isinstance(message, dict) or not isinstance(message.get("content"), list):
        return message
    content = [
        {"type": "image", "image": ImageId(part["image_id"])}
        if isinstance(part, dict) and "image_id" in part
        else part
        for part in message["content"]
    ]
    return {**message, "content": content}
