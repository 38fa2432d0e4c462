"""Captioned images: one table for all sources; folders with `captions.tsv`, Karpathy's splits, a `datasets` id."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypedDict

from datasets import Dataset, Features, Value, concatenate_datasets
from datasets import List as ListFeature

from .cache import PackageUnavailable, cache_dir
from .image_files import decoded_suffixes, walk_images
from .registry import IMAGES, find_loader, is_address
from .text_lines import read_lines


class ImageRow(TypedDict):
    """One captioned image; `image` is the path of a PNG or JPEG file, words that are not known are empty."""

    image_id: str
    image: str
    title: str
    description: str
    tags: list[str]
    source: str
    license: str
    author: str


IMAGE_FEATURES = Features(
    {name: ListFeature(Value("string")) if name == "tags" else Value("string") for name in ImageRow.__annotations__}
)


def image_dataset(rows: Iterable[ImageRow]) -> Dataset:
    """Return the rows as a `datasets.Dataset` with the columns of `IMAGE_FEATURES`."""
    rows = list(rows)  # `Dataset.from_list` refuses features without rows
    return Dataset.from_dict({name: [row[name] for row in rows] for name in IMAGE_FEATURES}, features=IMAGE_FEATURES)


logger = logging.getLogger(__name__)

CAPTIONS_FILE = "captions.tsv"


def load_image_folder(folder: str) -> Dataset:
    """Reads `captions.tsv` of a folder, `file<TAB>caption` a line with or without that header, files relative to the
    folder; a file may stand on several lines. Without `captions.tsv` every image below the folder has its name as its
    title, with spaces for `_` and `-`.

    Lines that cannot be used are skipped, counted and reported in the log. Whether a file is an image shows when it is
    decoded.

    Returns:
        `image_id, image, title, description, tags, source, license, author`, as all sources give them.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: it holds no captioned image.
    """
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise FileNotFoundError(f"There is no image folder {path}: write folder=PATH with the path of a folder.")
    path, skipped = path.absolute(), Counter()
    captions = path / CAPTIONS_FILE
    named = _captioned(captions, skipped) if captions.is_file() else _titled(path, skipped)
    rows, numbers = [], Counter()
    for file, title in named:
        name = file.relative_to(path).as_posix() if file.is_relative_to(path) else str(file)
        numbers[name] += 1
        repeat = f"#{numbers[name]}" if numbers[name] > 1 else ""
        rows.append(
            ImageRow(
                image_id=f"{path.name}/{name}{repeat}",
                image=str(file),
                title=title,
                description="",
                tags=[],
                source=path.name,
                license="",
                author="",
            )
        )
    if skipped:
        reasons = ", ".join(f"{count} x {reason}" for reason, count in sorted(skipped.items()))
        logger.warning("%s: skipped %s", captions if captions.is_file() else path, reasons)
    if not rows:
        raise ValueError(f"{path} contains no captioned image: add images, and {CAPTIONS_FILE} for captions.")
    return image_dataset(rows)


def _captioned(captions: Path, skipped: Counter) -> Iterator[tuple[Path, str]]:
    for number, line in enumerate(read_lines(captions, errors="replace")):
        fields = [field.strip() for field in line.split("\t")]
        if fields == [""] or (number == 0 and fields == ["file", "caption"]):
            continue
        if len(fields) != 2:
            skipped["line that is not file<TAB>caption"] += 1
        elif not fields[1]:
            skipped["no caption"] += 1
        elif not fields[0] or not (captions.parent / fields[0]).is_file():
            skipped["file is missing"] += 1
        else:
            yield captions.parent / fields[0], " ".join(fields[1].split())


def _titled(folder: Path, skipped: Counter) -> Iterator[tuple[Path, str]]:
    decoded = decoded_suffixes()
    found = walk_images(folder, lambda error: skipped.update(["folder that cannot be listed"]))
    for file in sorted(path for path, is_image in found if is_image):
        if file.suffix.lower() not in decoded:
            skipped[f"{file.suffix.lower()}, which is not decoded here"] += 1
        elif not file.is_file():
            skipped["file that is missing or not a regular one"] += 1
        else:
            title = " ".join(file.stem.replace("_", " ").replace("-", " ").split())
            # File names may hold bytes that are no UTF-8; a table may not.
            yield file, title.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_CAPTION_COLUMNS = ("caption", "captions", "text", "sentences", "raw")


def load_captioned_images(sources: Sequence[str] = tuple(IMAGES)) -> Dataset:
    """Load and join the named sources, in their order. One that is not available here is left out and logged.

    Args:
        sources: names out of `registry.IMAGES`: `openclipart`, `openmoji`, `stamps`; `folder=PATH`, a folder of one's
            own (`load_image_folder`); or `package.module:function`, a function that returns such a dataset.

    Raises:
        ValueError: an unknown source, or none, or a folder without captioned images.
        FileNotFoundError: a folder that is not there.
        PackageUnavailable: none of the sources can be brought.
    """
    unknown = [name for name in sources if not (name in IMAGES or is_address(name) or name.startswith("folder="))]
    if unknown or not sources:
        raise ValueError(f"unknown image sources {unknown}: choose from {', '.join(IMAGES)}, folder=PATH")
    found, missing = [], []
    for name in sources:
        kind, _, path = name.partition("=")
        try:
            found.append(load_image_folder(path) if kind == "folder" else find_loader(name, IMAGES)())
        except PackageUnavailable as error:
            logger.warning("Images of %s are left out: %s", name, error)
            missing.append(str(error))
    if not found:
        raise PackageUnavailable("no source of images is available: " + " | ".join(missing))
    return concatenate_datasets(found)


def read_captioned(data: str, *splits: str) -> tuple[dict[str, list[str]], list[Path], list[str]]:
    """Read images and their captions.

    Args:
        data: a folder of images (with `captions.tsv`, or their names are their captions), or the JSON file of
            Karpathy's splits (`dataset_coco.json`, `dataset_flickr30k.json`), whose `splits` are read, with the
            images' folders beside it.

    Returns:
        files of images, each with its captions; the files that identify the data; and notes.

    Raises:
        FileNotFoundError, ValueError: nothing is there, or it is no such file.
    """
    path, captions = Path(data).expanduser(), {}
    if path.is_dir():
        table, named = load_image_folder(str(path)), path / CAPTIONS_FILE
        for file, title in zip(table["image"], table["title"], strict=True):
            captions.setdefault(file, []).append(title)
        return captions, [named] if named.is_file() else list(map(Path, captions)), []
    if not path.is_file():
        raise FileNotFoundError(f"There is neither a folder nor a file {path}.")
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["images"]
        chosen = [entry for entry in entries if entry["split"] in splits]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a file of Karpathy's splits ({error!r}).") from error
    missing = 0
    for entry in chosen:
        names = [Path(entry.get("filepath", ""), entry["filename"]), Path("images", entry["filename"])]
        file = next((path.parent / name for name in names if (path.parent / name).is_file()), None)
        if file is None:
            missing += 1
        else:
            captions[str(file)] = [sentence["raw"].strip() for sentence in entry["sentences"]]
    if not captions:
        named = ", ".join(map(repr, splits))
        raise ValueError(f"{path}: none of the {len(chosen)} images of the split {named} lies beside it.")
    return captions, [path], [f"{missing} images are missing."] if missing else []


def captioned_image_splits(data: str, held_out_fraction: float) -> dict[str, dict[str, list[str]]]:
    """Read captioned images and divide them into training and development images.

    Args:
        data: as `read_captioned`, or the id `owner/name` of a data set for `datasets.load_dataset`, whose split
            `train` has a column of images and a column with a caption or a list of captions.
        held_out_fraction: share of the images for development, chosen by a hash of their names. Karpathy's files name
            their own (`val`).

    Returns:
        `train` and `validation`: files of images, each with its captions.

    Raises:
        FileNotFoundError, ValueError: nothing is there, it is of another form, or a split is empty.
    """
    path = Path(data).expanduser()
    if path.is_file():
        return {
            name: _with_captions(*read_captioned(data, *splits))
            for name, splits in (("train", ("train", "restval")), ("validation", ("val",)))
        }
    if path.is_dir():
        captions = _with_captions(*read_captioned(data))
    elif _HUB_ID.fullmatch(data):
        captions = _from_datasets(data)
    else:
        raise FileNotFoundError(
            f"There is neither a folder nor a file {data}: set data.images to a folder of images with {CAPTIONS_FILE} "
            "(file, tab, caption), to the JSON file of Karpathy's splits, or to a `datasets` id such as owner/name."
        )
    if not 0 < held_out_fraction < 1:
        raise ValueError(f"data.held_out_fraction must be between 0 and 1, got {held_out_fraction}.")
    # The same images are held out wherever the folder lies, and when images are added.
    ranked = sorted(captions, key=lambda file: hashlib.sha256(Path(file).name.encode("utf-8", "replace")).digest())
    count = max(round(held_out_fraction * len(ranked)), 1)
    if count >= len(ranked):
        raise ValueError(f"{data}: {len(ranked)} captioned images are too few to hold {count} out. Add images.")
    held_out = set(ranked[:count])
    return {
        "train": {file: texts for file, texts in captions.items() if file not in held_out},
        "validation": {file: captions[file] for file in ranked[:count]},
    }


def _with_captions(captions: dict[str, list[str]], _, notes: list[str]) -> dict[str, list[str]]:
    for note in notes:
        logger.warning("%s", note)
    return {file: said for file, texts in captions.items() if (said := [text for text in texts if text])}


def _from_datasets(name: str) -> dict[str, list[str]]:
    """Writes the images of a data set into the cache, once."""
    from datasets import Image, load_dataset

    try:
        table = load_dataset(name, split="train")
    except (OSError, ValueError) as error:  # of which the errors of the Hub are kinds
        raise FileNotFoundError(
            f"data.images={name} is not a folder or file here, and `datasets` cannot load it: "
            f"{(str(error) or repr(error)).splitlines()[0]}"
        ) from error
    image = next((column for column, kind in table.features.items() if isinstance(kind, Image)), None)
    text = next((column for column in _CAPTION_COLUMNS if column in table.features), None)
    if image is None or text is None:
        raise ValueError(
            f"{name} needs a column of images and one of captions ({', '.join(_CAPTION_COLUMNS)}); it has "
            f"{', '.join(table.features)}."
        )
    folder = cache_dir() / "images" / name.replace("/", "--")
    folder.mkdir(parents=True, exist_ok=True)
    captions, skipped = {}, 0
    for row in table.cast_column(image, Image(decode=False)):
        texts = [row[text]] if isinstance(row[text], str) else list(row[text] or ())
        texts = [part.strip() for part in texts if isinstance(part, str) and part.strip()]
        content = (row[image] or {}).get("bytes")
        file = (row[image] or {}).get("path")
        if content is not None:
            file = folder / hashlib.sha256(content).hexdigest()
            if not file.is_file():
                file.write_bytes(content)
        if not texts or file is None:
            skipped += 1
            continue
        captions.setdefault(str(file), []).extend(texts)
    if skipped:
        logger.warning("%s: skipped %d rows without an image or a caption", name, skipped)
    return captions
