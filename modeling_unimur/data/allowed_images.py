"""Which of the files that an index names may be shown."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from ..image_loading import IMAGE_FORMATS, Image


def is_image_file(path: str | os.PathLike) -> bool:
    """Whether a path is a regular file that Pillow knows as an image of a format that is decoded, by its content."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False
        Image.init()
        with Image.open(path, formats=[kind for kind in IMAGE_FORMATS if kind in Image.OPEN]) as image:
            return image.width > 0 and image.height > 0
    except Exception:  # damaged files make decoders raise nearly anything
        return False


class AllowedImages:
    """Images below folders that the owner of a computer has named.

    Args:
        folders: whose images may be shown, with those of their sub-folders. None of them: no image may.
    """

    def __init__(self, folders: Iterable[str | os.PathLike] = ()):
        self.folders = [Path(os.path.realpath(os.path.expanduser(folder))) for folder in folders]

    def find(self, path: str | os.PathLike) -> Path | None:
        """The file of a path, or None when it is not there, leads out of the folders by a link or by `..`, or is no
        image."""
        try:
            place = Path(os.path.realpath(os.fspath(path)))
        except (OSError, ValueError):  # a name with NUL
            return None
        if not any(place.is_relative_to(folder) for folder in self.folders):
            return None
        return place if is_image_file(place) else None


__all__ = ["AllowedImages", "is_image_file"]
