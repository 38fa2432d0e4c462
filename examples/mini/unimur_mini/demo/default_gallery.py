"""The images that the demo searches by default, and the images inside its dialogues."""

from __future__ import annotations

import random
import re
from collections.abc import Collection
from pathlib import Path

from modeling_unimur.cli.errors import CommandError
from modeling_unimur.cli.gallery import GalleryImage

from .results import SOURCE_NAMES

# Emoji that are rarely a good reply. They come last, and are only used if there are no other images.
_LESS_IMAGED = re.compile(
    r"\b(face|man|men|woman|women|person|people|family|couple|kiss|holding hands|hand|finger|flag|keycap|button|sign|"
    r"symbol|arrow|circle|square|diamond|triangle|heart|letter|regional indicator|mark|clock|thirty|o.clock|"
    r"japanese|input|squared|black|white|medium|large|small|component|hair|selector|cross|star of|wheel of|"
    r"double|brand|logo)\b"
)
# Letters and formulae are not good replies.
_LEFT_OUT_STAMPS = ("stamps/symbols/alphabets/", "stamps/symbols/math/")


def default_gallery(max_images: int, seed: int, leave_out: Collection[str]) -> dict[str, GalleryImage]:
    """Returns the images of the default gallery by id: clip art of the test split, stamps of things, and OpenMoji.

    Images that the dialogues already show (`leave_out`) and collections that are unavailable on this system are left
    out.

    Args:
        max_images: Number of images at which the gallery is full.
        seed: Seed for the order of each collection.
        leave_out: Ids of the images inside the dialogues.

    Raises:
        PackageUnavailable: if no collection is available.
    """
    from modeling_unimur.data.captioned_images import load_captioned_images
    from modeling_unimur.data.titles import split_of_title

    clip_arts, stamps, emoji, more_emoji = [], [], [], []
    for row in load_captioned_images():
        if row["image_id"] in leave_out:
            continue
        if row["source"] == "openclipart":
            if split_of_title(row["title"]) == "test":
                clip_arts.append(row)
        elif row["source"] == "stamps":
            if not row["image_id"].startswith(_LEFT_OUT_STAMPS):
                stamps.append(row)
        else:
            joined = "200D" in row["image_id"]
            (more_emoji if joined or _LESS_IMAGED.search(row["title"].lower()) else emoji).append(row)
    chosen: list[dict] = []
    for rows in (clip_arts, stamps, emoji, more_emoji):
        chosen += random.Random(seed).sample(rows, min(len(rows), max_images - len(chosen)))
    return {row["image_id"]: _image(row) for row in sorted(chosen, key=lambda row: row["image_id"])}


def images_by_id(image_ids: Collection[str]) -> dict[str, GalleryImage]:
    """Returns the images with the given ids from their collections.

    Raises:
        CommandError: if there is no image of an id. The message names the id.
        PackageUnavailable: if a collection is unavailable.
    """
    if not image_ids:
        return {}
    from modeling_unimur.data.captioned_images import load_captioned_images
    from modeling_unimur.data.registry import IMAGES

    sources = {image_id: image_id.partition("/")[0] for image_id in image_ids}
    for image_id, source in sources.items():
        if source not in IMAGES:
            raise CommandError(f"image id {image_id}: no such collection; there are {', '.join(IMAGES)}")
    rows = {row["image_id"]: row for row in load_captioned_images(sorted(set(sources.values())))}
    for image_id, source in sources.items():
        if image_id not in rows:
            raise CommandError(f"image id {image_id}: {SOURCE_NAMES.get(source)} has no such image here")
    return {image_id: _image(rows[image_id]) for image_id in image_ids}


def _image(row: dict) -> GalleryImage:
    return GalleryImage(Path(row["image"]), row["title"], row["source"], row["license"], row["author"])
