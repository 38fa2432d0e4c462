"""The three layouts in which people have WebQA, read into documents and questions."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..json_lines import line_objects, object_entries
from ..text_lines import open_lines
from .line_index import LineIndex


@dataclass(frozen=True)
class Document:
    """A text, or an image with its caption; `image` is an address of `data.image_bytes`, "" for texts.

    The same id may come several times: the last one counts.
    """

    doc_id: str
    kind: str
    text: str
    image: str = ""
    title: str = ""


@dataclass(frozen=True)
class Question:
    """A question of one split; ids of the images and texts that answer it, and of what was shown beside them and does
    not."""

    query_id: str
    text: str
    split: str
    images: Sequence[str]
    texts: Sequence[str]
    image_negatives: Sequence[str] = ()
    text_negatives: Sequence[str] = ()

    @property
    def kind(self) -> str:
        """What answers it: "image", "text", both as "image+text", or ""."""
        return "+".join(kind for kind, found in (("image", self.images), ("text", self.texts)) if found)

    @classmethod
    def of_facts(cls, query_id: str, text: str, split: str, ids: Callable[[str], Iterable]) -> Question:
        """A question whose answers stand in WebQA's four lists of facts; `ids` gives those of a list by its name."""
        lists = ("img_posFacts", "txt_posFacts", "img_negFacts", "txt_negFacts")
        return cls(query_id, clean(text), split, *(list(map(str, ids(name))) for name in lists))


def source_files(path: Path) -> dict[str, Path | zipfile.Path]:
    """The files of a folder, or those of a zip archive in whatever folder they are there, by their names.

    Raises:
        FileNotFoundError: it is neither.
    """
    if path.is_dir():
        return {file.name: file for file in path.iterdir() if file.is_file()}
    if not zipfile.is_zipfile(path):
        raise FileNotFoundError(f"{path} is neither a folder nor a zip archive.")
    archive = zipfile.ZipFile(path)
    # Copies that macOS adds are none.
    names = [name for name in archive.namelist() if "__MACOSX" not in name]
    return {name.rpartition("/")[2]: zipfile.Path(archive, name) for name in names}


def clean(text: str) -> str:
    """Text without spaces, quotation marks and carriage returns around it (UniVL-DR's `process_data.py`)."""
    return text.strip().strip('"').replace("\r", "").strip()


TRAIN_FILE, TEST_FILE = "WebQA_train_val.json", "WebQA_test.json"
# UniVL-DR's split (its process_data.py): WebQA's training questions shuffled by numpy's seed 1234, the first 5,000 of
# them for validation; WebQA's validation is the test split, since the answers of its test are not public.
SPLIT_SEED, NUM_VALIDATION = 1234, 5000


def read_raw(folder: Path, index: LineIndex | None, num_validation: int = NUM_VALIDATION) -> Iterator:
    """Documents and questions of the two files, a question's facts before it; one question is in memory at a time. The
    test file gives candidates alone, and may be absent. Images that the table lacks have an empty address.

    Args:
        folder: with the files.
        index: index of the images; without one, images have their captions alone.
        num_validation: training questions that are for validation, at most a third of them.

    Raises:
        FileNotFoundError: no training file.
        ValueError: a file is not in WebQA's form; the message names the question.
    """
    if not (folder / TRAIN_FILE).is_file():
        raise FileNotFoundError(f"{folder} contains no {TRAIN_FILE}.")
    validation = _validation_numbers(folder / TRAIN_FILE, num_validation)
    number = 0
    for file in (folder / TRAIN_FILE, folder / TEST_FILE):
        for guid, entry in object_entries(file) if file.is_file() else ():
            try:
                if file.name == TEST_FILE:
                    yield from _documents(entry, ("txt_Facts",), ("img_Facts",), index)
                    continue
                yield from _documents(entry, ("txt_posFacts", "txt_negFacts"), ("img_posFacts", "img_negFacts"), index)
                split = "test"
                if entry["split"] == "train":
                    split = "validation" if number in validation else "train"
                    number += 1
                yield _raw_question(guid, entry, split)
            except (KeyError, TypeError, AttributeError) as error:
                raise ValueError(f"{file}, question {guid}: not in WebQA's form ({error!r})") from error


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
            yield image_document(str(fact["image_id"]), fact["caption"], fact.get("title", ""), index)


def image_document(image_id: str, caption: str, title: str, index: LineIndex | None) -> Document:
    """An image with its address, "" where the table lacks it."""
    try:
        address = index.address(image_id) if index is not None else ""
    except KeyError:
        address = ""
    return Document(image_id, "image", clean(caption), address, title)


def _raw_question(guid: str, entry: dict, split: str) -> Question:
    def ids(name: str) -> Iterator:
        return (fact["image_id" if name.startswith("img") else "snippet_id"] for fact in entry[name])

    return Question.of_facts(guid, entry["Q"], split, ids)


DOCUMENTS_FILE = "all_docs.json"
# Captions as WebQA has them, with a generated caption behind, with a generated query behind (image verbalization).
CAPTION_FILES = {"raw": "all_imgs.json", "expanded": "all_imgs_exp.json", "query": "all_imgs_query.json"}
_SPLIT_FILES = {"train": "train", "validation": "dev", "test": "test"}


def read_released(path: Path, index: LineIndex | None, captions: str = "raw") -> Iterator:
    """Documents, then the questions of all splits; one line is in memory at a time. The questions' mined negatives
    (`train_all.json`, `dev_all.json`) are taken where they are there, else WebQA's own.

    Args:
        path: folder or zip archive with `train.json`, `dev.json`, `test.json`, `all_docs.json` and the captions.
        index: index of the images; without one, images have their captions alone.
        captions: `raw`, `expanded` or `query`.

    Raises:
        ValueError: no such captions, or a line lacks what it must have.
        FileNotFoundError: a file is absent.
    """
    if captions not in CAPTION_FILES:
        raise ValueError(f"captions={captions!r}: choose from {', '.join(CAPTION_FILES)}.")
    files = source_files(path)

    def rows(name: str) -> Iterator[dict]:
        if name not in files:
            raise FileNotFoundError(f"{path} contains no {name}.")
        with files[name].open("rb") as file:
            yield from line_objects(file, name)

    for row in rows(DOCUMENTS_FILE):
        text = clean(_of(row, "fact", DOCUMENTS_FILE))
        yield Document(str(_of(row, "snippet_id", DOCUMENTS_FILE)), "text", text, title=row.get("title", ""))
    name = CAPTION_FILES[captions]
    for row in rows(name):
        image_id = str(_of(row, "image_id", name))
        yield image_document(image_id, _of(row, "caption", name), row.get("title", ""), index)
    for split, stem in _SPLIT_FILES.items():
        name = f"{stem}_all.json" if f"{stem}_all.json" in files else f"{stem}.json"
        for row in rows(name):
            query_id, text = str(_of(row, "qid", name)), _of(row, "Q", name)
            yield Question.of_facts(query_id, text, split, lambda key, row=row, name=name: _of(row, key, name))


def _of(row: dict, key: str, name: str):
    if key not in row:
        raise ValueError(f"{name}: a line lacks {key!r}; it has {sorted(row)}.")
    return row[key]


_POOLS = "cand_pool/local/mbeir_webqa_*cand_pool.jsonl"
_QUERIES = "query/{}/mbeir_webqa_*.jsonl"
_SPLITS = {"train": "train", "validation": "val", "test": "test"}
# M-BEIR's names of a candidate's form.
_KINDS = {"text": "text", "image,text": "image", "image": "image"}


def is_mbeir(folder: Path) -> bool:
    """Whether a folder holds M-BEIR's WebQA."""
    return any(folder.glob(_POOLS))


def read_mbeir(folder: Path) -> Iterator:
    """Documents, then the questions of all splits that are there, of M-BEIR's folder with `cand_pool/local`, `query`
    and `mbeir_images`; one line is in memory at a time. An image whose file is absent has an empty address.

    Ids are M-BEIR's (`9:123`), of questions with their split before them: M-BEIR numbers each split anew.

    Raises:
        FileNotFoundError: no pool of candidates, or no queries.
        ValueError: a line lacks what it must have.
    """
    pools = sorted(folder.glob(_POOLS))
    queries = {split: sorted(folder.glob(_QUERIES.format(name))) for split, name in _SPLITS.items()}
    if not pools or not any(queries.values()):
        raise FileNotFoundError(f"{folder} contains no {_POOLS}, or no {_QUERIES.format('*')}.")
    images: set[int] = set()
    for pool in pools:
        for row in _mbeir_rows(pool, ("did", "modality")):
            kind = _KINDS.get(row["modality"])
            if kind is None:
                raise ValueError(f"{pool}: {row['did']} is of an unknown form {row['modality']!r}")
            if kind == "image":
                images.add(_number(row["did"]))
            yield Document(row["did"], kind, (row.get("txt") or "").strip(), _address(folder, row.get("img_path")))
    for split, files in queries.items():
        seen: set[str] = set()
        for file in files:
            for row in _mbeir_rows(file, ("qid", "query_txt", "pos_cand_list")):
                # The joint file of a split may lie beside those of its two tasks.
                if row["qid"] not in seen:
                    seen.add(row["qid"])
                    yield _mbeir_question(row, split, images)


def _mbeir_rows(path: Path, needed: tuple[str, ...]) -> Iterator[dict]:
    with open_lines(path) as file:
        for row in line_objects(file, str(path)):
            missing = [key for key in needed if row.get(key) is None]
            if missing:
                raise ValueError(f"{path}: a line lacks {missing}; it has {sorted(row)}.")
            yield row


def _number(did: str) -> int:
    return int(did.rpartition(":")[2])


def _address(folder: Path, image: str | None) -> str:
    path = folder / image if image else None
    return str(path.absolute()) if path is not None and path.is_file() else ""


def _mbeir_question(row: dict, split: str, images: set[int]) -> Question:
    ids = {"pos": row["pos_cand_list"], "neg": row.get("neg_cand_list") or []}
    parts = {
        (name, shown): [did for did in found if (_number(did) in images) == shown]
        for name, found in ids.items()
        for shown in (True, False)
    }
    return Question(f"{split}/{row['qid']}", row["query_txt"].strip(), split, *parts.values())
