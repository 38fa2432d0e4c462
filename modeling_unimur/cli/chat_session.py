"""A conversation in the terminal: the commands, their effect, and the output."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import webbrowser
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from ..data.image_files import is_image_file
from ..image_loading import load_image
from .gallery import GalleryImage, RankedImage, RankedReply
from .terminal import Terminal

PROMPT = "you> "
HELP = """\
  Type a message; the conversation so far decides the answer.
  /image PATH   add an image to your next message (an empty line sends it without words)
  /show         print the paths of the last answer's images
  /show N       open the N-th of them
  /reset        begin a new conversation
  /help         this text
  /quit         leave (Ctrl-D and Ctrl-C leave as well)"""


@dataclass
class ChatSession:
    """The state of a conversation with a pipeline and its filled index.

    Args:
        images: what is known of the index's images, by id; others are named by their id.
        top_k: answers of each kind.
        options: further options of each call, such as `{"coherent": True}`.
    """

    retriever: Any
    images: Mapping[str, GalleryImage] = field(default_factory=dict)
    top_k: int = 3
    options: Mapping[str, Any] = field(default_factory=dict)
    messages: list[dict] = field(default_factory=list)
    pending: list[Path] = field(default_factory=list)
    last: list[RankedImage] = field(default_factory=list)

    def ask(self, text: str) -> tuple[list[RankedReply], list[RankedImage]]:
        """Send a message with the pending images; the best reply becomes the assistant's turn.

        What the retriever raises is passed on, and the conversation is then as it was before.
        """
        parts: list[dict] = [{"type": "text", "text": text}] if text else []
        parts += [{"type": "image", "image": str(path)} for path in self.pending]
        messages = [*self.messages, {"role": "user", "content": parts}]
        found = self.retriever(messages, top_k=self.top_k, **self.options)
        replies = [RankedReply(item["text"], float(item["score"])) for item in found["text"]]
        self.last = [RankedImage(self._image(item), float(item["score"])) for item in found["image"]]
        self.messages = messages
        self.pending = []
        if replies:
            self.messages.append({"role": "assistant", "content": replies[0].text})
        return replies, self.last

    def _image(self, item: Mapping[str, Any]) -> GalleryImage:
        if item["id"] in self.images:
            return self.images[item["id"]]
        path = item.get("image") if isinstance(item.get("image"), (str, os.PathLike)) else item["id"]
        return GalleryImage(Path(path), Path(item["id"]).stem)

    def reset(self) -> None:
        """Forget the conversation and the images that wait."""
        self.messages, self.pending, self.last = [], [], []


def converse(session: ChatSession, stream: TextIO, read_line: Callable[[str], str]) -> None:
    """Answer lines until the user leaves; `read_line` is like `input`: it takes the prompt, returns a line, and raises
    EOFError or KeyboardInterrupt at the end."""
    terminal = Terminal(stream)
    terminal.write("Say something, or /help.")
    while True:
        try:
            line = read_line(PROMPT).strip()
            if line.startswith("/"):
                if not _command(session, terminal, line):
                    break
            elif line or session.pending:
                _answer(session, terminal, line)
        except (EOFError, KeyboardInterrupt):
            terminal.write()
            break
    terminal.write("Bye.")


def _answer(session: ChatSession, terminal: Terminal, text: str) -> None:
    try:
        replies, images = session.ask(text)
    except (OSError, ValueError) as error:
        terminal.write(f"unimur: {' '.join(str(error).split())}")
        if session.pending:
            # An image that went bad while it waited would spoil every later message too.
            session.pending = []
            terminal.write("  The images that waited were dropped.")
        return
    terminal.replies(replies)
    terminal.images(images, with_paths=True)
    if not replies and not images:
        terminal.write("  the index is empty")


def _command(session: ChatSession, terminal: Terminal, line: str) -> bool:
    """Carry out a line that begins with a slash; False means to leave."""
    name, _, argument = line.partition(" ")
    argument = argument.strip()
    if name in ("/quit", "/exit"):
        return False
    if name == "/help":
        terminal.stream.write(HELP + "\n")
    elif name == "/reset":
        session.reset()
        terminal.write("  A new conversation.")
    elif name == "/image":
        _add_image(session, terminal, argument)
    elif name == "/show":
        _show(session, terminal, argument)
    else:
        terminal.write(f"unimur: unknown command {name}; /help lists them")
    return True


def _typed_path(text: str) -> Path:
    # People paste paths with quotes, with backslashes before spaces, or as file://.
    text = text.removeprefix("file://")
    path = Path(text).expanduser()
    if os.name != "nt" and not path.exists():
        with contextlib.suppress(ValueError):  # a quote that is not closed
            path = Path(" ".join(shlex.split(text)).removeprefix("file://")).expanduser()
    return path


def _add_image(session: ChatSession, terminal: Terminal, argument: str) -> None:
    if not argument:
        terminal.write("unimur: /image needs a path, such as /image cat.jpg")
        return
    try:
        path = _typed_path(argument)
        image = load_image(path)
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: `~name` of nobody
        terminal.write(f"unimur: {' '.join(str(error).split())}")
        return
    session.pending.append(path)
    terminal.write(f"  {path.name} ({image.width} x {image.height}) goes with your next message.")


def _show(session: ChatSession, terminal: Terminal, argument: str) -> None:
    if not session.last:
        terminal.write("unimur: there is no answer with images yet")
    elif not argument:
        for place, ranked in enumerate(session.last, start=1):
            terminal.write(f"  {place}. {ranked.image.title}: {ranked.image.path}")
    elif not argument.isdecimal() or not 1 <= int(argument) <= len(session.last):
        terminal.write(f"unimur: /show takes a number from 1 to {len(session.last)}, not {argument}")
    else:
        path = session.last[int(argument) - 1].image.path
        shown = is_image_file(path)  # an index may name anything
        opened = shown and open_image(path)
        reason = " (is gone)" if not path.exists() else " (is no image)" if not shown else " (no viewer here)"
        terminal.write(f"  {path}" + ("" if opened else reason))


def open_image(path: Path) -> bool:
    """Open an image in the system's viewer; False where there is none."""
    has_screen = not sys.platform.startswith("linux") or bool({"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys())
    return has_screen and webbrowser.open(path.resolve().as_uri())
