"""All images of a retrieval set put into words, a batch at a time, and kept on disk."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

from datasets import Dataset
from PIL import Image
from tqdm.auto import tqdm

from ..conversation import clean_texts
from ..data.cache import cache_dir
from ..data.image_bytes import read_image_bytes
from ..data.json_lines import append_json_lines, read_json_lines, scan_json_lines, write_json_lines
from ..image_loading import load_image

logger = logging.getLogger(__name__)


def word_key(image: bytes, caption: str) -> str:
    """Return the key of an image's words: a hash of its bytes and its caption."""
    return hashlib.sha256(hashlib.sha256(image).digest() + caption.encode("utf-8", "surrogatepass")).hexdigest()[:32]


class WordStore:
    """Words by key, for one verbalizer (`verbalizer` tells it from others, such as its model and its prompt).

    A run that is killed leaves at most one broken line at the end. Each line has a checksum of its words, their key
    and the verbalizer. Lines that do not agree with theirs are passed over and reported.
    """

    def __init__(self, folder: str | os.PathLike, verbalizer: str):
        self._verbalizer = verbalizer
        name = hashlib.sha256(verbalizer.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        self.path = Path(folder) / f"words-{name}.jsonl"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._words: dict[str, str] = {}
        if self.path.is_file():
            self._read()

    def _read(self) -> None:
        broken = 0
        with self.path.open("rb") as file:
            for line in scan_json_lines(file, str(self.path)):
                row = line.value if isinstance(line.value, dict) else {}
                if row and row.get("sum") == self._sum(row.get("key"), row.get("words")):
                    self._words[row["key"]] = row["words"]
                elif "verbalizer" not in row:  # with which files of earlier versions begin
                    broken += 1
        if broken or not self._words:
            logger.warning("%s: %d lines hold no words; those images are put into words again.", self.path, broken)

    def _sum(self, key: str, words: str) -> str:
        text = json.dumps([self._verbalizer, key, words])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def __contains__(self, key: str) -> bool:
        return key in self._words

    def __getitem__(self, key: str) -> str:
        return self._words[key]

    def __len__(self) -> int:
        return len(self._words)

    def add(self, words: dict[str, str]) -> None:
        """Add words by key and sync them to disk."""
        lines = ({"key": key, "words": text, "sum": self._sum(key, text)} for key, text in words.items())
        append_json_lines(self.path, lines)
        self._words.update(words)


# CLIP's tokenizer has no such special token and reads three ordinary ones (UniVL-DR).
SEPARATOR = " [SEP] "


class Verbalizer(Protocol):
    """Puts images into words."""

    key: str
    """What its words depend on: another model, prompt or setting has another key."""

    def __call__(self, images: list[Image.Image], captions: list[str]) -> list[str]:
        """Words of each image; "" where there is nothing to say."""


def verbalize(
    corpus: Dataset | Iterable[Mapping],
    verbalizer: Verbalizer,
    batch_size: int = 8,
    folder: str | os.PathLike | None = None,
) -> dict[str, str]:
    """Put all image documents of a corpus into words.

    Images with equal bytes and caption are put into words once, and never again: what was computed lies in the folder,
    and a run that was killed goes on there. An image that cannot be read is skipped and reported.

    Args:
        corpus: `doc_id`, `kind`, `text`, `image`, as in a `RetrievalSet`.
        verbalizer: what says what an image shows.
        batch_size: images at a time.
        folder: of the words; `verbalizations` in the cache by default.

    Returns:
        `{doc_id: words}` of the image documents whose image can be read.

    Raises:
        ValueError: a verbalizer that returns another number of texts than it got images.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be a positive integer, got {batch_size}.")
    store = WordStore(folder or cache_dir() / "verbalizations", verbalizer.key)
    keys: dict[str, str] = {}
    waiting: dict[str, tuple[Image.Image, str]] = {}
    skipped, had = 0, len(store)

    def flush() -> None:
        images, captions = zip(*waiting.values(), strict=True)
        words = verbalizer(list(images), list(captions))
        if len(words) != len(images):
            raise ValueError(f"{len(words)} texts for {len(images)} images came from {verbalizer.key}.")
        store.add(dict(zip(waiting, (" ".join(text.split()) for text in words), strict=True)))
        waiting.clear()

    for row in tqdm(corpus, desc="Verbalizing"):
        if row["kind"] != "image" or not row["image"]:
            continue
        try:
            data = read_image_bytes(row["image"])
            key = word_key(data, row["text"] or "")
            if key not in store and key not in waiting:
                waiting[key] = (load_image(data, name=row["image"]), row["text"] or "")
        except (OSError, ValueError) as error:
            logger.warning("Left out: %s", error)
            skipped += 1
            continue
        keys[row["doc_id"]] = key
        if len(waiting) >= batch_size:
            flush()
    if waiting:
        flush()
    logger.info(
        "%d images put into words, %d of them now; %d skipped; in %s",
        len(keys), len(store) - had, skipped, store.path,
    )  # fmt: skip
    return {doc_id: store[key] for doc_id, key in keys.items()}


def join_caption(processor, caption: str | None, words: str | None) -> str:
    """`caption [SEP] words`, cut to `max_target_tokens` of a `UniVLDRProcessor` so that `verbalization_tokens` are
    left for the latter (UniVL-DR, equation 8). If one of both is None or empty, the other is returned as it is."""

    def ids(text: str) -> list:
        (text,) = clean_texts([text], processor.clean_text)
        return processor.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    caption, words = ((text or "").strip() for text in (caption, words))
    if not caption or not words:
        return caption or words
    if processor.verbalization_tokens:
        ends = len(processor.tokenizer("")["input_ids"])
        kept = min(len(ids(SEPARATOR + words)), processor.verbalization_tokens + len(ids(SEPARATOR)))
        room, head = max(processor.max_target_tokens - ends - kept, 1), caption.split(" ")
        while len(head) > 1 and len(ids(" ".join(head))) > room:
            head.pop()
        caption = " ".join(head)
    return f"{caption}{SEPARATOR}{words}"


def joined_captions(corpus: Dataset, words: Mapping[str, str], processor) -> Dataset:
    """The corpus with `caption [SEP] words`, words by `doc_id`, as the text of image documents that have words; the
    processor's `verbalization_tokens` say how much room the words keep."""

    def joined(row: dict) -> dict:
        found = words.get(row["doc_id"]) if row["kind"] == "image" else None
        return {"text": join_caption(processor, row["text"], found) if found else row["text"]}

    return corpus.map(joined, load_from_cache_file=False)


def write_words(words: Mapping[str, str], path: str | os.PathLike) -> None:
    """Writes JSON lines `doc_id, words`."""
    write_json_lines(path, ({"doc_id": doc_id, "words": text} for doc_id, text in words.items()))


def read_words(path: str | os.PathLike) -> dict[str, str]:
    """Reads what `write_words` wrote.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: a line of it is something else; the message names it.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"There are no words of images in {path}: make them with `unimur verbalize`.")
    found = {}
    for number, row in read_json_lines(path):
        if not isinstance(row, dict) or not all(isinstance(row.get(name), str) for name in ("doc_id", "words")):
            raise ValueError(f"{path}, line {number}: it needs the texts doc_id and words, not {row!r:.80}.")
        found[row["doc_id"]] = row["words"]
    return found
