"""Dialogues and their images as two parquet files that `datasets` reads: an image is stored once."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from tqdm.auto import tqdm

from .dialog_schema import Dialog

logger = logging.getLogger(__name__)

DIALOGS_FILE, IMAGES_FILE = "dialogs.parquet", "images.parquet"
# Rows that are in memory at a time.
_DIALOGS, _IMAGES = 1024, 32


def dialog_features():
    """`dialog_id, turns: list of {speaker, text, image_ids}`."""
    from datasets import Features, List, Value

    text = Value("string")
    turn = {"speaker": text, "text": text, "image_ids": List(text)}
    return Features({"dialog_id": text, "turns": List(turn)})


def image_features():
    """`image_id, image, caption`; the caption is None where there is none."""
    from datasets import Features, Image, Value

    return Features({"image_id": Value("string"), "image": Image(), "caption": Value("string")})


def write_dialog_tables(
    dialogs: Iterable[Dialog],
    picture: Callable[[str], Path | None],
    folder: str | os.PathLike,
    caption: Callable[[str], str | None] = lambda image_id: None,
) -> tuple[Path, Path]:
    """Writes the dialogues of a reader, one block in memory at a time.

    Args:
        dialogs: of any reader (`reader.dialog()` where it has records of its own).
        picture: image id to file; images that are missing are left out of the images, counted and logged, and stay
            named in the turns.
        folder: made if it is not there.
        caption: image id to its caption, where the set has some.

    Returns:
        The two files: `datasets.load_dataset("parquet", data_files=str(file))` reads either.

    Raises:
        ValueError: no dialogue.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    names: dict[str, None] = {}
    missing: list[str] = []

    def rows() -> Iterator[dict]:
        for dialog in tqdm(dialogs, desc="Dialogues", unit="dialogue"):
            names.update(dict.fromkeys(image_id for turn in dialog.turns for image_id in turn.image_ids))
            yield dialog.row()

    def images() -> Iterator[dict]:
        for image_id in tqdm(names, desc="Images", unit="image"):
            path = picture(image_id)
            if path is None or not Path(path).is_file():
                missing.append(image_id)
                continue
            content = {"bytes": Path(path).read_bytes(), "path": None}
            yield {"image_id": image_id, "image": content, "caption": caption(image_id)}

    paths = folder / DIALOGS_FILE, folder / IMAGES_FILE
    if not _write(paths[0], dialog_features(), rows(), _DIALOGS):
        raise ValueError("There is no dialogue to write.")
    _write(paths[1], image_features(), images(), _IMAGES)
    if missing:
        logger.warning("%d images are missing and left out, such as %s", len(missing), missing[0])
    return paths


def _write(path: Path, features, rows: Iterator[dict], block: int) -> int:
    """Rows to a parquet file that is there whole or not at all; how many they are."""
    import pyarrow as pa
    from pyarrow import parquet

    aside, count, schema = path.with_suffix(".part"), 0, features.arrow_schema
    with parquet.ParquetWriter(aside, schema) as writer:
        while part := list(itertools.islice(rows, block)):
            writer.write_table(pa.Table.from_pylist(part, schema=schema))
            count += len(part)
    os.replace(aside, path)
    return count


__all__ = ["DIALOGS_FILE", "IMAGES_FILE", "dialog_features", "image_features", "write_dialog_tables"]
