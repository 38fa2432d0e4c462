"""What a conversation in the browser is answered with, and what a visitor may send."""

from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, UnidentifiedImageError

ENDINGS = [".png", ".jpg", ".jpeg", ".webp", ".gif"]
MAX_PIXELS = 40_000_000
MAX_SIDE, MAX_ASPECT = 16_384, 50  # a line of pixels is resized to far more of them
MAX_PICTURES = 4  # of one message
MAX_LETTERS = 2_000  # of one message
MAX_TURNS = 40
TOP_K = 3
SHOWN = 24  # of the gallery at a time
ALWAYS, NEVER = -1.0, 1.0  # cosines


class Refused(ValueError):
    """What a visitor sent cannot be answered; the message says why."""


@dataclass
class Conversation:
    """What was said so far, as the pipeline reads it and as the page shows it."""

    messages: list = field(default_factory=list)
    shown: list = field(default_factory=list)


class Responder:
    """Answers conversations from an index.

    Args:
        retriever: a `multimodal-retrieval` pipeline with a filled index.
        pictures: path and title of each image in the index, by its id.
    """

    def __init__(self, retriever, pictures: "dict[str, tuple[str, str]]"):
        self.retriever, self.pictures = retriever, pictures

    @property
    def gallery(self) -> "list[tuple[str, str]]":
        """All images as path and title."""
        return list(self.pictures.values())

    def answer(self, conversation: Conversation, text: str, files: "list[str]", threshold: float) -> tuple:
        """The conversation with a message and its answer.

        Args:
            conversation: so far; it is not changed.
            text: of the message.
            files: its images.
            threshold: best cosine from which on images are returned; -1 is always, 1 is never.

        Returns:
            The longer conversation, and the images as `(path, caption)`.

        Raises:
            Refused: an empty message, too many or too large images, or something that is no image.
        """
        # No tokenizer takes halves of surrogate pairs.
        text = (text or "").encode("utf-8", "replace").decode().replace("\0", "").strip()
        if not text and not files:
            raise Refused("Write something or add an image first.")
        if len(text) > MAX_LETTERS:
            raise Refused(f"A message has at most {MAX_LETTERS:,} letters; this one has {len(text):,}.")
        if len(files) > MAX_PICTURES:
            raise Refused(f"A message has at most {MAX_PICTURES} images; this one has {len(files)}.")
        for file in files:
            check_picture(Path(file))
        parts = [{"type": "image", "image": file} for file in files]
        parts += [{"type": "text", "text": text}] if text else []
        messages = [*conversation.messages, {"role": "user", "content": parts}][-MAX_TURNS:]
        try:
            found = self.retriever(messages, top_k=TOP_K, image_threshold=threshold)
        except (ValueError, OSError) as error:
            raise Refused(str(error)) from error
        shown = [*conversation.shown, *(turn("user", {"path": f, "alt_text": "your image"}) for f in files)]
        shown += [turn("user", text)] if text else []
        replies, pictures = found["text"], found["image"] if threshold < NEVER else []
        if replies:
            messages.append({"role": "assistant", "content": replies[0]["text"]})
            shown.append(turn("assistant", replies[0]["text"]))
        known = [(*self.pictures[hit["id"]], hit["score"]) for hit in pictures if hit["id"] in self.pictures]
        if known:
            path, title, _ = known[0]
            shown.append(turn("assistant", {"path": path, "alt_text": title}))
        if not replies and not known:
            shown.append(turn("assistant", "(nothing in the gallery answers this)"))
        return Conversation(messages, shown), [(path, f"{title} ({score:.2f})") for path, title, score in known]

    def search(self, words: str) -> "list[tuple[str, str]]":
        """Pictures for words: those whose title has them, then the nearest ones; the first ones for no words."""
        words = (words or "").strip()[:MAX_LETTERS]
        if not words:
            return self.gallery[:SHOWN]
        named = [item for item in self.gallery if words.lower() in item[1].lower()]
        message = [{"role": "user", "content": words}]
        hits = self.retriever(message, top_k=SHOWN, modality="image", image_threshold=ALWAYS)["image"]
        near = [self.pictures[hit["id"]] for hit in hits if hit["id"] in self.pictures]
        return list(dict.fromkeys([*named, *near]))[:SHOWN]


def turn(role: str, content) -> dict:
    """A line of the chat."""
    return {"role": role, "content": content}


def check_picture(file: Path) -> None:
    """Refuses a file that is no image of an allowed kind and size, before it is decoded.

    Raises:
        Refused: saying which.
    """
    if file.suffix.lower() not in ENDINGS:
        raise Refused(f"{file.name} is no image: {', '.join(ENDINGS)} can be read.")
    try:
        with Image.open(file, formats=["PNG", "JPEG", "WEBP", "GIF"]) as picture:
            width, height = picture.size
    except (UnidentifiedImageError, OSError, ValueError) as error:
        raise Refused(f"{file.name} cannot be read as an image.") from error
    if max(width, height) > min(MAX_SIDE, MAX_ASPECT * min(width, height)):
        raise Refused(
            f"{file.name} has {width} x {height} pixels; a side has at most {MAX_SIDE:,}, and {MAX_ASPECT} times the "
            "other one."
        )
    if width * height > MAX_PIXELS:
        raise Refused(f"{file.name} has {width} x {height} pixels; {MAX_PIXELS // 10**6} megapixels are the most.")
