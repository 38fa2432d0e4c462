"""WebQA as M-BEIR has it (Wei et al., UniIR): candidate pools and queries as JSON lines, images as files.

Its texts and its pairs of image and caption are without repeats; its validation split are 3,500 training questions,
its test split WebQA's validation.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..json_lines import line_objects
from ..text_lines import open_lines
from .records import Document, Question, kind_of

_POOLS = "cand_pool/local/mbeir_webqa_*cand_pool.jsonl"
_QUERIES = "query/{}/mbeir_webqa_*.jsonl"
_SPLITS = {"train": "train", "validation": "val", "test": "test"}
# M-BEIR's names of a candidate's form.
_KINDS = {"text": "text", "image,text": "image", "image": "image"}


def is_mbeir(folder: Path) -> bool:
    """Whether a folder holds M-BEIR's WebQA."""
    return any(folder.glob(_POOLS))


def read_mbeir(folder: Path) -> Iterator:
    """Documents, then the questions of all splits that are there; one line is in memory at a time.

    Ids are M-BEIR's (`9:123`), of questions with their split before them: M-BEIR numbers each split anew.

    Args:
        folder: M-BEIR's, with `cand_pool/local`, `query` and `mbeir_images`.

    Yields:
        `Document` and `Question`; an image whose file is absent has an empty address.

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
        for row in _rows(pool, ("did", "modality")):
            kind = _KINDS.get(row["modality"])
            if kind is None:
                raise ValueError(f"{pool}: {row['did']} is of an unknown form {row['modality']!r}")
            if kind == "image":
                images.add(_number(row["did"]))
            yield Document(row["did"], kind, (row.get("txt") or "").strip(), _address(folder, row.get("img_path")))
    for split, files in queries.items():
        seen: set[str] = set()
        for file in files:
            for row in _rows(file, ("qid", "query_txt", "pos_cand_list")):
                # The joint file of a split may lie beside those of its two tasks.
                if row["qid"] not in seen:
                    seen.add(row["qid"])
                    yield _question(row, split, images)


def _rows(path: Path, needed: tuple[str, ...]) -> Iterator[dict]:
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


def _question(row: dict, split: str, images: set[int]) -> Question:
    parts: dict[bool, list[str]] = {True: [], False: []}
    for did in row.get("neg_cand_list") or []:
        parts[_number(did) in images].append(did)
    shown = [did for did in row["pos_cand_list"] if _number(did) in images]
    told = [did for did in row["pos_cand_list"] if _number(did) not in images]
    return Question(
        query_id=f"{split}/{row['qid']}",
        text=row["query_txt"].strip(),
        split=split,
        positives=tuple(row["pos_cand_list"]),
        image_negatives=tuple(parts[True]),
        text_negatives=tuple(parts[False]),
        kind=kind_of(shown, told),
    )


__all__ = ["is_mbeir", "read_mbeir"]
