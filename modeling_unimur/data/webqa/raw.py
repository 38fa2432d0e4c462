"""WebQA as its authors publish it: `WebQA_train_val.json`, `WebQA_test.json` and the table of images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..json_stream import object_entries
from .line_index import LineIndex
from .records import Document, Question, clean, kind_of

TRAIN_FILE, TEST_FILE = "WebQA_train_val.json", "WebQA_test.json"
# UniVL-DR's split (its process_data.py): WebQA's training questions shuffled by numpy's seed 1234, the first 5,000 of
# them for validation; WebQA's validation is the test split, since the answers of its test are not public.
SPLIT_SEED, NUM_VALIDATION = 1234, 5000


def read_raw(folder: Path, index: LineIndex | None, num_validation: int = NUM_VALIDATION) -> Iterator:
    """Documents and questions of the two files, a question's facts before it; one question is in memory at a time.

    The test file gives candidates alone, and may be absent.

    Args:
        folder: with the files.
        index: of the images; without one, images have their captions alone.
        num_validation: training questions that are for validation, at most a third of them.

    Yields:
        `Document` and `Question`; images that the table lacks have an empty address.

    Raises:
        FileNotFoundError: no training file.
        ValueError: a file is not in WebQA's form; the message names the question.
    """
    if not (folder / TRAIN_FILE).is_file():
        raise FileNotFoundError(f"{folder} contains no {TRAIN_FILE}.")
    validation = _validation_numbers(folder / TRAIN_FILE, num_validation)
    number = 0
    for guid, entry in object_entries(folder / TRAIN_FILE):
        try:
            yield from _documents(entry, ("txt_posFacts", "txt_negFacts"), ("img_posFacts", "img_negFacts"), index)
            split = "test"
            if entry["split"] == "train":
                split = "validation" if number in validation else "train"
                number += 1
            yield _question(guid, entry, split)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{folder / TRAIN_FILE}, question {guid}: not in WebQA's form ({error!r})") from error
    if (folder / TEST_FILE).is_file():
        for guid, entry in object_entries(folder / TEST_FILE):
            try:
                yield from _documents(entry, ("txt_Facts",), ("img_Facts",), index)
            except (KeyError, TypeError, AttributeError) as error:
                raise ValueError(f"{folder / TEST_FILE}, question {guid}: not in WebQA's form ({error!r})") from error


def _validation_numbers(path: Path, count: int) -> frozenset[int]:
    """Places among the training questions that the authors' shuffle puts first."""
    total = sum(entry.get("split") == "train" for _, entry in object_entries(path) if isinstance(entry, dict))
    # A list, as the authors' script has one: numpy then exchanges its items in the same order.
    order = list(range(total))
    np.random.RandomState(SPLIT_SEED).shuffle(order)
    return frozenset(order[: min(count, total // 3)])


def _documents(entry: dict, texts: tuple[str, ...], images: tuple[str, ...], index: LineIndex | None) -> Iterator:
    for name in texts:
        for fact in entry[name]:
            yield Document(str(fact["snippet_id"]), "text", clean(fact["fact"]), title=fact.get("title", ""))
    for name in images:
        for fact in entry[name]:
            yield picture_document(str(fact["image_id"]), fact["caption"], fact.get("title", ""), index)


def picture_document(image_id: str, caption: str, title: str, index: LineIndex | None) -> Document:
    """An image with its address, "" where the table lacks it."""
    try:
        address = index.address(image_id) if index is not None else ""
    except KeyError:
        address = ""
    return Document(image_id, "image", clean(caption), address, title)


def _question(guid: str, entry: dict, split: str) -> Question:
    ids = {
        name: tuple(str(fact["image_id" if name.startswith("img") else "snippet_id"]) for fact in entry[name])
        for name in ("img_posFacts", "img_negFacts", "txt_posFacts", "txt_negFacts")
    }
    return Question(
        query_id=guid,
        text=clean(entry["Q"]),
        split=split,
        positives=ids["img_posFacts"] + ids["txt_posFacts"],
        image_negatives=ids["img_negFacts"],
        text_negatives=ids["txt_negFacts"],
        kind=kind_of(ids["img_posFacts"], ids["txt_posFacts"]),
    )


__all__ = ["NUM_VALIDATION", "SPLIT_SEED", "TEST_FILE", "TRAIN_FILE", "picture_document", "read_raw"]
