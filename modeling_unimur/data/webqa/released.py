"""WebQA as UniVL-DR's authors release it (`data.zip`): questions, texts and captions as JSON lines."""

from __future__ import annotations

from collections.abc import Iterator

from ..json_lines import line_objects
from .line_index import LineIndex
from .raw import picture_document
from .records import Document, Question, Source, clean, kind_of

DOCUMENTS_FILE = "all_docs.json"
# Captions as WebQA has them, with a generated caption behind, with a generated query behind (image verbalization).
CAPTION_FILES = {"raw": "all_imgs.json", "expanded": "all_imgs_exp.json", "query": "all_imgs_query.json"}
_SPLIT_FILES = {"train": "train", "validation": "dev", "test": "test"}


def read_released(source: Source, index: LineIndex | None, captions: str = "raw") -> Iterator:
    """Documents, then the questions of all splits; one line is in memory at a time.

    The questions' mined negatives (`train_all.json`, `dev_all.json`) are taken where they are there, else WebQA's own.

    Args:
        source: with `train.json`, `dev.json`, `test.json`, `all_docs.json` and the captions.
        index: of the images; without one, images have their captions alone.
        captions: `raw`, `expanded` or `query`.

    Yields:
        `Document` and `Question`.

    Raises:
        ValueError: no such captions, or a line lacks what it must have.
        FileNotFoundError: a file is absent.
    """
    if captions not in CAPTION_FILES:
        raise ValueError(f"captions={captions!r}: choose from {', '.join(CAPTION_FILES)}.")
    with source.open(DOCUMENTS_FILE) as file:
        for row in line_objects(file, DOCUMENTS_FILE):
            text = clean(_of(row, "fact", DOCUMENTS_FILE))
            yield Document(str(_of(row, "snippet_id", DOCUMENTS_FILE)), "text", text, title=row.get("title", ""))
    name = CAPTION_FILES[captions]
    with source.open(name) as file:
        for row in line_objects(file, name):
            image_id = str(_of(row, "image_id", name))
            yield picture_document(image_id, _of(row, "caption", name), row.get("title", ""), index)
    for split, stem in _SPLIT_FILES.items():
        name = next((name for name in (f"{stem}_all.json", f"{stem}.json") if source.has(name)), f"{stem}.json")
        with source.open(name) as file:
            for row in line_objects(file, name):
                yield _question(row, split, name)


def _question(row: dict, split: str, name: str) -> Question:
    ids = {
        key: tuple(map(str, _of(row, key, name)))
        for key in ("img_posFacts", "txt_posFacts", "img_negFacts", "txt_negFacts")
    }
    return Question(
        query_id=str(_of(row, "qid", name)),
        text=clean(_of(row, "Q", name)),
        split=split,
        positives=ids["img_posFacts"] + ids["txt_posFacts"],
        image_negatives=ids["img_negFacts"],
        text_negatives=ids["txt_negFacts"],
        kind=kind_of(ids["img_posFacts"], ids["txt_posFacts"]),
    )


def _of(row: dict, key: str, name: str):
    if key not in row:
        raise ValueError(f"{name}: a line lacks {key!r}; it has {sorted(row)}.")
    return row[key]


__all__ = ["CAPTION_FILES", "DOCUMENTS_FILE", "read_released"]
