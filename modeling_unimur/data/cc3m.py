"""Conceptual Captions 3M as people have it: the official TSV, FROMAGe's TSV, and what img2dataset writes.

Nothing is downloaded: what lies on the disk is read once into a table, and a report says what is missing.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset, Features, Value
from datasets.arrow_writer import ArrowWriter
from tqdm.auto import tqdm

from .atomic_files import write_json
from .cache import build_once, cache_dir, files_stamp
from .dialog_schema import ReadReport
from .img2dataset import CaptionedImage, Skipped, find_archives, read_archives
from .text_lines import read_lines

# Rows of the two files that Google publishes (Sharma et al., ACL 2018; the test split is not public).
PUBLISHED_ROWS = {"train": 3_318_333, "validation": 15_840}
# What a report counts.
USABLE = "usable pairs"

# Lines that are tried to find out where the images lie and how they are named.
_SAMPLE = 500
_SUFFIXES = ("", ".jpg", ".jpeg", ".png", ".webp", ".gif")
# Where downloaders and FROMAGe put the images, seen from the folder of the TSV.
_IMAGE_FOLDERS = (
    "images", "training", "validation", ".", "cc3m/training", "cc3m/validation",
    "../data/cc3m/training", "../data/cc3m/validation",
)  # fmt: skip
# File names without suffix that downloaders make of a line's number (from 0) and its URL. Files that are only numbered
# are not among them: nothing would show that an image stands beside another line's caption.
_NAMES: dict[str, Callable[[int, str], str]] = {
    "<line>_<CRC-32 of the URL>": lambda line, url: f"{line}_{zlib.crc32(url.encode())}",
    "<CRC-32 of the URL>": lambda line, url: str(zlib.crc32(url.encode())),
    "<MD5 of the URL>": lambda line, url: hashlib.md5(url.encode(), usedforsecurity=False).hexdigest(),
    "<SHA-256 of the URL>": lambda line, url: hashlib.sha256(url.encode()).hexdigest(),
}
_FEATURES = Features({"caption": Value("string"), "image": Value("string")})
# Increased whenever the readers' rows change, so that tables written by an older version are not read.
_VERSION = 2


# -- TSV files --------------------------------------------------------------------------------------------------------
def read_tsv(path: str | os.PathLike, images: str | os.PathLike | None = None) -> Iterator[CaptionedImage | Skipped]:
    """Read the pairs of a TSV file in order, with one line in memory at a time.

    Args:
        path: either Google's file, `caption<TAB>url` without a header, whose images a downloader named by line and
            URL; or FROMAGe's, with the header `caption<TAB>image` and image names relative to the image folder.
        images: the folder with the images. Without one it is looked for beside the file: `images`, `training`,
            `validation`, the file's own folder, and where FROMAGe's defaults put it.

    Yields:
        each usable pair, or why a line gives none: `malformed line`, `no caption`, `image is missing`.

    Raises:
        FileNotFoundError: no such file, or no folder that holds any of its first images; the message names the
            folders and the names that were tried.
        ValueError: the file is in neither form.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}: give the path of a TSV of captions.")
    if images is not None and not Path(images).is_dir():
        raise FileNotFoundError(f"There is no image folder {images} (for {path}).")
    first = next(read_lines(path, errors="replace"), "")
    fields = [_unquote(field).strip().lower() for field in first.split("\t")]
    if {"caption", "image"} <= set(fields):
        columns, names = (
            (fields.index("caption"), fields.index("image")),
            {"in the column `image`": lambda _, name: name},
        )
        return _read(path, images, 1, columns, names, ("",))
    if len(fields) == 2 and fields[1].startswith(("http://", "https://")):
        names = {f"{how} with or without a suffix": name for how, name in _NAMES.items()}
        return _read(path, images, 0, (0, 1), names, _SUFFIXES)
    raise ValueError(
        f"{path} begins with {first[:80]!r}: that is neither `caption<TAB>url` (Google's file, no header) nor the "
        "header `caption<TAB>image` (FROMAGe's)."
    )


def _unquote(field: str) -> str:
    # pandas quotes a field that holds a quotation mark, and doubles the marks in it; Google's file never does.
    inner = field[1:-1]
    if len(field) > 1 and field[0] == field[-1] == '"' and '"' not in inner.replace('""', ""):
        return inner.replace('""', '"')
    return field


def _read(
    path: Path, images, header: int, columns: tuple[int, int], names: dict[str, Callable[[int, str], str]], suffixes
) -> Iterator[CaptionedImage | Skipped]:
    """Pairs of a file with so many lines of `header`, by the columns of captions and of images. `names` make the name
    of a file, without a suffix, of the number of a line and what it says of its image."""

    def rows() -> Iterator[tuple[int, str, str]]:
        lines = enumerate(read_lines(path, errors="replace"))
        for line, text in itertools.islice(lines, header, None):
            fields = [_unquote(field) for field in text.split("\t")] if header else text.split("\t")
            is_whole = len(fields) > max(columns) if header else len(fields) == 2
            caption, image = (fields[column] for column in columns) if is_whole else ("", "")
            yield line, " ".join(caption.split()), image.strip()

    def file_of(folder: Path, name: Callable[[int, str], str], line: int, image: str) -> str | None:
        stem = os.path.join(folder, name(line, image))
        return next((stem + suffix for suffix in suffixes if image and os.path.isfile(stem + suffix)), None)

    sample = list(itertools.islice(rows(), _SAMPLE))
    beside = [Path(os.path.normpath(path.parent / name)) for name in (*_IMAGE_FOLDERS, path.stem)]
    tried = [Path(images)] if images is not None else [folder for folder in beside if folder.is_dir()]
    # The folder and the way of naming files by which most of the first lines' images are found.
    hits = {
        (folder, name): sum(file_of(folder, name, line, image) is not None for line, _, image in sample)
        for folder in tried
        for name in names.values()
    }
    best = max(hits, key=hits.__getitem__, default=None)
    if best is None or not hits[best]:
        raise FileNotFoundError(
            f"None of the first {len(sample)} images of {path} was found, named {' or '.join(names)}, in "
            f"{', '.join(map(str, tried)) or 'any folder beside it'}. Name the folder: {path}::FOLDER."
        )
    for line, caption, image in rows():
        file = file_of(*best, line, image)
        if not image or not caption:
            yield Skipped("no caption" if image else "malformed line", f"{path}:{line + 1}")
        elif file is None:
            yield Skipped("image is missing", os.path.join(best[0], image) if header else image)
        else:
            yield CaptionedImage(caption, file)


# -- the table --------------------------------------------------------------------------------------------------------
@dataclass
class CC3MTable:
    """The usable pairs of one split.

    Args:
        pairs (`Dataset`): `caption` and `image`, an address as in `data.image_bytes`; mapped from disk. Files that are
            no image show only when they are decoded.
        report: what was found, beside what Google publishes.
        skipped_list: file that names everything that was skipped, `reason<TAB>item` a line.
    """

    pairs: Dataset
    report: ReadReport
    skipped_list: Path


def read_cc3m(path: str) -> tuple[str, list[str], Iterator[CaptionedImage | Skipped]]:
    """Detect the layout at a path and read its pairs, with one pair in memory at a time.

    Args:
        path: a `.tsv` file (`FILE.tsv::FOLDER` names its images' folder); a tar archive, a folder of archives, a
            wildcard or a pattern with braces (`cc3m/{00000..00331}.tar`).

    Returns:
        the layout's name, the files and folders that it depends on, and the pairs.

    Raises:
        FileNotFoundError: nothing lies there, or the images do not.
        ValueError: a TSV file is in neither form of `read_tsv`.
    """
    file, separator, images = os.path.expanduser(os.path.expandvars(path)).partition("::")
    # A table may be read again from another working folder.
    path, images = os.path.abspath(file), os.path.abspath(os.path.expanduser(images)) if images else None
    if separator or (os.path.isfile(path) and not path.endswith(".tar")):
        return "TSV", [path, images or os.path.dirname(path)], read_tsv(path, images)
    if path.endswith(".tsv"):
        raise FileNotFoundError(f"There is no file {path}: give the path of a TSV of captions.")
    archives = find_archives(path)
    return "webdataset archives", archives, read_archives(archives)


def load_cc3m(path: str, split: str | None = None) -> CC3MTable:
    """Load the pairs at a path as a table. It is built in the cache at the first call and again when the files change.

    Args:
        path: as `read_cc3m` takes it.
        split: `train` or `validation`, whose published counts the report compares with; None compares with nothing.

    Raises:
        FileNotFoundError, ValueError: as `read_cc3m`; ValueError also when not one pair is usable.
    """
    layout, parts, pairs = read_cc3m(path)
    name = f"cc3m-{_stamp(path, layout, parts)}"
    folder = build_once(cache_dir() / "data" / name, lambda aside: _write(path, layout, pairs, aside))
    report = ReadReport(**json.loads((folder / "report.json").read_text(encoding="utf-8")))
    report.published = {USABLE: PUBLISHED_ROWS[split]} if split in PUBLISHED_ROWS else {}
    return CC3MTable(Dataset.from_file(str(folder / "pairs.arrow")), report, folder / "skipped.tsv")


def _write(path: str, layout: str, pairs: Iterator[CaptionedImage | Skipped], folder: Path) -> None:
    """Writes the table, the list of what was skipped and the report, a batch of rows in memory at a time."""
    report = ReadReport(f"{path} ({layout})")
    with (
        ArrowWriter(path=str(folder / "pairs.arrow"), features=_FEATURES) as writer,
        open(folder / "skipped.tsv", "w", encoding="utf-8", errors="replace") as skipped,
    ):
        for pair in tqdm(pairs, desc=f"Reading {Path(path).name}", unit="pair", unit_scale=True):
            if isinstance(pair, Skipped):
                report.lose(pair.reason, pair.item)
                skipped.write(f"{pair.reason}\t{pair.item}\n")
            else:
                # File names may hold bytes that are no UTF-8; Arrow's strings may not.
                row = (text.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for text in pair)
                writer.write(dict(zip(_FEATURES, row, strict=True)))
        report.found[USABLE], _ = writer.finalize()
    if not report.found[USABLE]:
        raise ValueError(f"{path}: no usable pair of caption and image ({report.describe()}).")
    write_json(folder / "report.json", vars(report))


def _stamp(path: str, layout: str, parts: list[str]) -> str:
    folders: list[str] = []
    if layout == "TSV" and os.path.isdir(parts[1]):  # images may arrive in any of the folders below
        folders = sorted(entry.path for entry in os.scandir(parts[1]) if entry.is_dir())
    return files_stamp([*parts, *folders], str(_VERSION), layout, os.path.abspath(path))
