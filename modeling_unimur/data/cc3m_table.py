"""Conceptual Captions 3M, read once into a table on disk, with a report of what is missing."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from tqdm.auto import tqdm

from .cache import cache_dir
from .caption_table import StringColumn, write_columns
from .cc3m import PUBLISHED_ROWS, CaptionedImage, Skipped, read_tsv
from .img2dataset import download_failures, find_archives, read_archives, read_folder

logger = logging.getLogger(__name__)

# Raised whenever the readers' rows change, so that tables written by an older version are not read.
_VERSION = 1


@dataclass
class CC3MReport:
    """What was found of one split.

    Args:
        source, layout: the path as given, and how it was read.
        published: rows of the file that Google publishes; None for a split of one's own.
        usable: pairs with a caption and an image file. Files that are no image show only when they are decoded.
        skipped: reason -> number of pairs (or archives).
        failed_downloads: pairs that img2dataset tried in vain, by its own statistics.
        skipped_list: the file that names everything that was skipped, `reason<TAB>item` a line.
    """

    source: str
    layout: str
    published: int | None
    usable: int
    skipped: dict
    failed_downloads: int
    skipped_list: str

    def describe(self) -> str:
        """The report in one line."""
        text = f"{self.source} ({self.layout}): {self.usable:,} usable pairs"
        if self.published:
            share = 100 * self.usable / self.published
            text += f" of {self.published:,} published ({share:.1f} %; {self.published - self.usable:,} missing)"
        parts = [f"{count:,} x {reason}" for reason, count in sorted(self.skipped.items())]
        if self.failed_downloads:
            parts.append(f"{self.failed_downloads:,} x failed download")
        return (
            f"{text}; skipped: {', '.join(parts)} (listed in {self.skipped_list})"
            if parts
            else f"{text}; none skipped"
        )


@dataclass
class CC3MTable:
    """Captions and image addresses, row by row, mapped from disk; and the report."""

    captions: StringColumn
    pictures: StringColumn
    report: CC3MReport


def read_cc3m(path: str) -> tuple[str, list[str], Iterator[CaptionedImage | Skipped]]:
    """Finds out what lies at a path and reads it, one pair in memory at a time.

    Args:
        path: a `.tsv` file (`FILE.tsv::FOLDER` names its images' folder); a tar archive, a folder of archives, a
            wildcard or a pattern with braces (`cc3m/{00000..00331}.tar`); or a folder of img2dataset's `files` format.

    Returns:
        the layout's name, the files and folders that it depends on, and the pairs.

    Raises:
        FileNotFoundError: nothing lies there, or the images do not.
        ValueError: it is none of these layouts.
    """
    file, separator, pictures = os.path.expanduser(os.path.expandvars(path)).partition("::")
    # A table may be read again from another working folder.
    path, pictures = os.path.abspath(file), os.path.abspath(os.path.expanduser(pictures)) if pictures else None
    if separator or (os.path.isfile(path) and not path.endswith(".tar")):
        return "TSV", [path, pictures or os.path.dirname(path)], read_tsv(path, pictures)
    if os.path.isdir(path) and not any(name.endswith(".tar") for name in os.listdir(path)):
        parts = sorted(entry.path for entry in os.scandir(path) if entry.is_dir())
        if not parts and not any(name.endswith((".txt", ".json")) for name in os.listdir(path)):
            raise ValueError(f"{path} holds neither tar archives nor images with a .txt or .json beside them.")
        return "img2dataset files", [path, *parts], read_folder(path)
    if path.endswith(".tsv"):
        raise FileNotFoundError(f"There is no file {path}: give the path of a TSV of captions.")
    archives = find_archives(path)
    return "webdataset archives", archives, read_archives(archives)


def load_cc3m(path: str, split: str | None = None) -> CC3MTable:
    """The pairs at a path as a table in the cache, made at the first call and again when the files change.

    Args:
        path: as `read_cc3m` takes it.
        split: `train` or `validation`, whose published counts the report compares with; None compares with nothing.

    Raises:
        FileNotFoundError, ValueError: as `read_cc3m`; ValueError also when not one pair is usable.
    """
    layout, parts, pairs = read_cc3m(path)
    name = f"cc3m-{_state(path, layout, parts)}"
    folder = cache_dir() / "data"
    table, about, listing = (folder / f"{name}{suffix}" for suffix in (".arrow", ".json", ".skipped.tsv"))
    if not (table.is_file() and about.is_file()):
        skipped: Counter[str] = Counter()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as aside:
            with open(Path(aside, "skipped"), "w", encoding="utf-8", errors="replace") as file:

                def usable() -> Iterator[tuple[str, str]]:
                    for pair in tqdm(pairs, desc=f"Reading {Path(path).name}", unit="pair", unit_scale=True):
                        if isinstance(pair, Skipped):
                            skipped[pair.reason] += 1
                            file.write(f"{pair.reason}\t{pair.item}\n")
                        else:
                            yield pair.caption, pair.picture

                count = write_columns(table, ("caption", "picture"), usable())
            if not count:
                reasons = ", ".join(f"{number} x {reason}" for reason, number in skipped.items())
                raise ValueError(f"{path}: no usable pair of caption and image ({reasons or 'it is empty'}).")
            os.replace(Path(aside, "skipped"), listing)
            failed = 0 if layout == "TSV" else download_failures(parts)
            report = CC3MReport(path, layout, None, count, dict(skipped), failed, str(listing))
            Path(aside, "about").write_text(json.dumps(asdict(report), indent=1) + "\n", encoding="utf-8")
            os.replace(Path(aside, "about"), about)
    report = CC3MReport(**json.loads(about.read_text(encoding="utf-8")))
    report.published = PUBLISHED_ROWS.get(split or "")
    return CC3MTable(StringColumn(table, "caption"), StringColumn(table, "picture"), report)


def _state(path: str, layout: str, parts: list[str]) -> str:
    """Sixteen hexadecimal digits that change when a file is replaced, or a folder gets or loses entries."""
    state = [str(_VERSION), layout, os.path.abspath(path)]
    for part in parts:
        try:
            status = os.stat(part)
            state.append(f"{os.path.abspath(part)} {status.st_size} {status.st_mtime_ns}")
        except OSError:
            state.append(f"{part} missing")
    if layout == "TSV" and os.path.isdir(parts[1]):  # a folder's time changes when an image arrives in it
        folders = (entry for entry in os.scandir(parts[1]) if entry.is_dir())
        state.extend(sorted(f"{entry.path} {entry.stat().st_mtime_ns}" for entry in folders))
    return hashlib.sha256("\n".join(state).encode("utf-8", "surrogateescape")).hexdigest()[:16]


__all__ = ["CC3MReport", "CC3MTable", "load_cc3m", "read_cc3m"]
