"""What a conversation in the browser is answered with, what a visitor may send, and which index is searched."""

from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, UnidentifiedImageError

ENDINGS = [".png", ".jpg", ".jpeg", ".webp", ".gif"]
MAX_PIXELS = 40_000_000
MAX_SIDE, MAX_ASPECT = 16_384, 50  # a line of pixels is resized to far more of them
MAX_IMAGES = 4  # of one message
MAX_LETTERS = 2_000  # of one message
MAX_TURNS = 40
MAX_OWN = 50  # images of a visitor's own gallery
MAX_REPLIES = 200  # texts beside it
HUB = "hf://datasets/"
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
        images: path and title of each image in the index, by its id or by the name of its file.
    """

    def __init__(self, retriever, images: "dict[str, tuple[str, str]]"):
        self.retriever, self.images = retriever, images

    @property
    def gallery(self) -> "list[tuple[str, str]]":
        """All images as path and title."""
        return list(self.images.values())

    def image(self, hit: dict) -> "tuple[str, str] | None":
        """Path and title of a hit, if it may be shown."""
        return self.images.get(hit["id"]) or self.images.get(Path(hit["id"]).name)

    def answer(
        self, conversation: Conversation, text: str, files: "list[str]", threshold: float, coherent: bool = False
    ) -> tuple:
        """The conversation with a message and its answer.

        Args:
            conversation: so far; it is not changed.
            text: of the message.
            files: its images.
            threshold: best cosine from which on images are returned; -1 is always, 1 is never.
            coherent: whether texts and images are preferred that agree with each other.

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
        if len(files) > MAX_IMAGES:
            raise Refused(f"A message has at most {MAX_IMAGES} images; this one has {len(files)}.")
        for file in files:
            check_image(Path(file))
        parts = [{"type": "image", "image": file} for file in files]
        parts += [{"type": "text", "text": text}] if text else []
        messages = [*conversation.messages, {"role": "user", "content": parts}][-MAX_TURNS:]
        try:
            found = self.retriever(messages, top_k=TOP_K, image_threshold=threshold, coherent=coherent)
        except (ValueError, OSError) as error:
            raise Refused(str(error)) from error
        shown = [*conversation.shown, *(turn("user", {"path": f, "alt_text": "your image"}) for f in files)]
        shown += [turn("user", text)] if text else []
        replies, images = found["text"], found["image"] if threshold < NEVER else []
        if replies:
            messages.append({"role": "assistant", "content": replies[0]["text"]})
            shown.append(turn("assistant", replies[0]["text"]))
        shown_hits = [(self.image(hit), hit.get("cosine", hit["score"])) for hit in images]
        known = [(*image, cosine) for image, cosine in shown_hits if image is not None]
        if known:
            path, title, _ = known[0]
            shown.append(turn("assistant", {"path": path, "alt_text": title}))
        if not replies and not known:
            shown.append(turn("assistant", "(nothing in the gallery answers this)"))
        return Conversation(messages, shown), [(path, f"{title} ({score:.2f})") for path, title, score in known]

    def search(self, words: str) -> "list[tuple[str, str]]":
        """Images for words: those whose title has them, then the nearest ones; the first ones for no words."""
        words = (words or "").strip()[:MAX_LETTERS]
        if not words:
            return self.gallery[:SHOWN]
        named = [item for item in self.gallery if words.lower() in item[1].lower()]
        message = [{"role": "user", "content": words}]
        hits = self.retriever(message, top_k=SHOWN, modality="image", image_threshold=ALWAYS)["image"]
        near = [image for hit in hits if (image := self.image(hit)) is not None]
        return list(dict.fromkeys([*named, *near]))[:SHOWN]

    def with_own_gallery(self, files: "list[str]") -> "tuple[Responder, list[str]]":
        """Answers from a visitor's images in place of the gallery, beside the texts of this index; and why images are
        left out. The index lives as long as the answer's object, and is nobody else's.

        Raises:
            Refused: too many images, or none that can be used.
        """
        if len(files) > MAX_OWN:
            raise Refused(f"A gallery of your own has at most {MAX_OWN} images; these are {len(files)}.")
        good, told = {}, []
        for file in files:
            try:
                check_image(Path(file))
                good[file] = (file, Path(file).stem.replace("_", " "))
            except Refused as error:
                told.append(str(error))
        own = type(self.retriever)(model=self.retriever.model, processor=self.retriever.processor)
        own.chats = self.retriever.chats  # what was read of a chat is the model's, not the index's
        count = min(MAX_REPLIES, self.retriever.index.count("text"))
        texts = self.retriever("hello", modality="text", top_k=count)["text"] if count else []
        report = own.add(images=list(good), texts=[hit["text"] for hit in texts])
        told += [f"{Path(item['item']).name}: {item['reason']}" for item in report["skipped"]]
        if not report["images"]:
            raise Refused("None of these files is an image that can be used. " + " ".join(told))
        left_out = {item["item"] for item in report["skipped"]}
        return Responder(own, {name: image for name, image in good.items() if name not in left_out}), told


def open_gallery(retriever, here: Path, address: "str | None" = None) -> "dict[str, tuple[str, str]]":
    """Fills the pipeline's index, or opens the one at an address, and returns the images that may be shown.

    Args:
        retriever: a `multimodal-retrieval` pipeline.
        here: folder of the Space, with `gallery/` and `replies.txt`.
        address: of an index: a folder, `hf://datasets/OWNER/NAME` with an index and its images, or what else
            `load_index` takes, such as the address of a Milvus server.

    Returns:
        path and title by id; for an index at an address by file name, and only for images in `gallery/` and in the
        folder or data set of the index.
    """
    places = [here / "gallery"]
    if address:
        if address.startswith(HUB):
            from huggingface_hub import snapshot_download

            address = snapshot_download(address.removeprefix(HUB), repo_type="dataset")
        retriever.load_index(address, read_only=True)
        places.append(Path(address))
    files = sorted(
        path for place in places for path in place.rglob("*") if path.suffix.lower() in ENDINGS and path.is_file()
    )
    if not address:
        lines = (here / "replies.txt").read_text(encoding="utf-8").split("\n")
        retriever.add(images=[str(path) for path in files], texts=[line for line in lines if line.strip()])
    names = [path.name if address else str(path) for path in files]
    return {name: (str(path), path.stem.replace("_", " ")) for name, path in zip(names, files, strict=True)}


def turn(role: str, content) -> dict:
    """A line of the chat."""
    return {"role": role, "content": content}


def check_image(file: Path) -> None:
    """Refuses a file that is no image of an allowed kind and size, before it is decoded.

    Raises:
        Refused: saying which.
    """
    if file.suffix.lower() not in ENDINGS:
        raise Refused(f"{file.name} is no image: {', '.join(ENDINGS)} can be read.")
    try:
        with Image.open(file, formats=["PNG", "JPEG", "WEBP", "GIF"]) as image:
            width, height = image.size
    except (UnidentifiedImageError, OSError, ValueError) as error:
        raise Refused(f"{file.name} cannot be read as an image.") from error
    if max(width, height) > min(MAX_SIDE, MAX_ASPECT * min(width, height)):
        raise Refused(
            f"{file.name} has {width} x {height} pixels; a side has at most {MAX_SIDE:,}, and {MAX_ASPECT} times the "
            "other one."
        )
    if width * height > MAX_PIXELS:
        raise Refused(f"{file.name} has {width} x {height} pixels; {MAX_PIXELS // 10**6} megapixels are the most.")
