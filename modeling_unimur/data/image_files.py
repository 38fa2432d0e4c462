"""Image files below folders, one at a time, and which of them may be shown."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from PIL import Image

from ..image_loading import IMAGE_FORMATS, pillow_heif

# Images that Pillow may be unable to open: they are tried, and reported when they fail, not passed over in silence.
TRIED_ANYWAY = {".avif", ".dds", ".exr", ".hdr", ".heic", ".heif", ".icns", ".jxl", ".psd", ".svg", ".svgz", ".xbm"}
# Of these Pillow would read the small preview that lies in front.
CAMERA_RAW = {".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".pef", ".raf", ".rw2", ".srw"}


def decoded_suffixes() -> set[str]:
    """Lower-case file name endings of the formats that `load_image` decodes here."""
    extensions = Image.registered_extensions().items()
    found = {suffix for suffix, kind in extensions if kind in IMAGE_FORMATS and kind in Image.OPEN}
    return found if pillow_heif is None else found | {".heic", ".heif"}


def walk_images(folder: Path, onerror: Callable[[OSError], None] | None = None) -> Iterator[tuple[Path, bool]]:
    """Yield the files below a folder in sorted order, and whether each has the name of an image.

    Hidden files and folders are left out; links to folders are followed once. `onerror` is called for a folder that
    cannot be listed; such are passed over by default.
    """
    suffixes, seen = decoded_suffixes() | TRIED_ANYWAY | CAMERA_RAW, set()
    for root, folders, names in os.walk(folder, onerror=onerror, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                path = Path(root, name)
                yield path, path.suffix.lower() in suffixes


def printable(name: str) -> str:
    """Return a file name with escapes for bytes that are not UTF-8, for pages and indexes."""
    return name.encode("utf-8", errors="backslashreplace").decode()


def is_image_file(path: str | os.PathLike) -> bool:
    """Return whether a path is a regular file whose content Pillow recognizes as an image that can be decoded."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False
        Image.init()
        with Image.open(path, formats=[kind for kind in IMAGE_FORMATS if kind in Image.OPEN]) as image:
            return image.width > 0 and image.height > 0
    except Exception:  # damaged files make decoders raise nearly anything
        return False


class AllowedImages:
    """Images below the folders that the owner of the computer has allowed; without folders, none."""

    def __init__(self, folders: Iterable[str | os.PathLike] = ()):
        self.folders = [Path(os.path.realpath(os.path.expanduser(folder))) for folder in folders]

    def find(self, path: str | os.PathLike) -> Path | None:
        """Return the file of a path. Returns None if the file does not exist, is outside the folders (also through a
        link or `..`), or is not an image."""
        try:
            place = Path(os.path.realpath(os.fspath(path)))
        except (OSError, ValueError):  # a name with NUL
            return None
        if not any(place.is_relative_to(folder) for folder in self.folders):
            return None
        return place if is_image_file(place) else None
