"""Finds out how WebQA lies on the disk, reads it once and keeps its tables in the cache."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ..cache import build_once, cache_dir, files_stamp
from ..retrieval_set import RetrievalSet
from .layouts import (
    DOCUMENTS_FILE,
    NUM_VALIDATION,
    TRAIN_FILE,
    is_mbeir,
    read_mbeir,
    read_raw,
    read_released,
    source_files,
)
from .line_index import find_line_index
from .tables import write_tables

# Which captions images have, and which documents are merged. WebQA repeats a text under another id for every question;
# UniVL-DR's figures are those of the corpus with all of them, and of captions with a generated query behind them.
SETTINGS = {
    "merged": {"captions": "raw", "deduplicate": "texts"},
    "released": {"captions": "query", "deduplicate": "none"},
}
# Increased whenever the rows change, so that tables cached by an older version are not read.
TABLE_VERSION = 1


def webqa_layout(path: str | os.PathLike) -> str:
    """`raw`, `released` or `mbeir`, whichever lies at a path.

    Raises:
        FileNotFoundError: nothing lies there.
        ValueError: it is none of them; the message names the files that are looked for.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no {path}: give the folder of WebQA, or UniVL-DR's data.zip.")
    if path.is_dir() and (path / TRAIN_FILE).is_file():
        return "raw"
    if path.is_dir() and is_mbeir(path):
        return "mbeir"
    if DOCUMENTS_FILE in source_files(path):
        return "released"
    raise ValueError(
        f"{path} holds neither {TRAIN_FILE} (WebQA), nor {DOCUMENTS_FILE} (UniVL-DR's data.zip), nor "
        "cand_pool/local/mbeir_webqa_*_cand_pool.jsonl (M-BEIR)."
    )


def load_webqa(
    path: str | os.PathLike,
    *,
    setting: str = "merged",
    captions: str | None = None,
    deduplicate: str | None = None,
    num_validation: int = NUM_VALIDATION,
) -> RetrievalSet:
    """Reads WebQA as a retrieval set; its tables are made at the first call and again when the files change.

    Args:
        path: the folder with `WebQA_train_val.json` (and `WebQA_test.json`, whose candidates count); or the folder of
            UniVL-DR's `data.zip`, or the archive itself; or M-BEIR's folder. Images of the first two are read out of
            `imgs.tsv` in the folder, by `imgs.lineidx.new` or `imgs.lineidx`; where neither is there, the table is
            read once and the former is written. Without the table images have their captions alone.
        setting: `merged`, or `released` for the corpus and the captions of UniVL-DR's figures. Figures of one setting
            are not comparable with those of another.
        captions: `raw`, or of `data.zip` `expanded` (a generated caption behind) or `query` (a generated query
            behind); as the setting has it by default.
        deduplicate: `texts`: equal texts are one document, which the relevance then names; `all`: also images of equal
            bytes and caption, which takes reading all; `none`; as the setting has it by default.
        num_validation: number of training questions of the raw files that are used for validation.

    Returns:
        splits train, validation and test; of the raw files UniVL-DR's splits. `queries` with `kind` (the kind of what
        answers them), `hard_negatives` are those of the files; `about` says the setting.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: it is none of the layouts, a file is not in its form, or the layout lacks such captions.
    """
    if setting not in SETTINGS:
        raise ValueError(f"setting={setting!r}: choose from {', '.join(SETTINGS)}.")
    captions = captions or SETTINGS[setting]["captions"]
    deduplicate = deduplicate or SETTINGS[setting]["deduplicate"]
    path = Path(path).expanduser().absolute()
    layout = webqa_layout(path)
    if captions != "raw" and layout != "released":
        raise ValueError(
            f"{path} has raw captions, and captions={captions!r} are asked for: those are in UniVL-DR's data.zip. "
            "Set captions to raw, or give that."
        )

    def build(folder: Path) -> None:
        write_tables(_records(path, layout, captions, num_validation), folder, deduplicate)

    name = _stamp(path, layout, captions, deduplicate, str(num_validation))
    found = RetrievalSet.load(build_once(cache_dir() / "data" / f"webqa-{name}", build))
    chosen = {"captions": captions, "deduplicate": deduplicate}
    found.about = {"setting": next((name for name in SETTINGS if SETTINGS[name] == chosen), "own"), **chosen}
    return found


def _records(path: Path, layout: str, captions: str, num_validation: int) -> Iterator:
    if layout == "mbeir":
        return read_mbeir(path)
    index = find_line_index(path if path.is_dir() else path.parent)
    return read_raw(path, index, num_validation) if layout == "raw" else read_released(path, index, captions)


def _stamp(path: Path, *choices: str) -> str:
    files = [path] if path.is_file() else [*path.glob("*.*"), *path.glob("*/*/*.jsonl")]
    # An index is written by the reader itself.
    files = sorted(file for file in files if file.is_file() and "lineidx" not in file.name)
    return files_stamp([*files, *([path.parent / "imgs.tsv"] if path.is_file() else [])], str(TABLE_VERSION), *choices)
