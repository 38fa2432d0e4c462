"""The images of the user's own folder."""

from __future__ import annotations

import random
from pathlib import Path

from modeling_unimur.cli.errors import CommandError
from modeling_unimur.cli.gallery import GalleryImage
from modeling_unimur.data.image_files import printable, walk_images


def find_images(folder: Path, max_images: int, seed: int) -> tuple[dict[str, GalleryImage], int, int]:
    """Finds all images below a folder.

    Hidden files and folders are left out, and links to folders are followed once.

    Args:
        folder: Folder to search.
        max_images: Maximum number of images. If there are more, some are chosen at random.
        seed: Seed of that choice.

    Returns:
        The images by id, which is their path; the number of images that were found; and the number of other files.

    Raises:
        CommandError: if the folder is missing, is a file, cannot be listed or holds no image.
    """
    if not folder.exists():
        raise CommandError(f"no folder at {folder}; --images takes a folder with images")
    if not folder.is_dir():
        raise CommandError(f"{folder} is a file; --images takes a folder")

    def fail(error: OSError) -> None:
        if Path(error.filename or "") == folder:
            raise CommandError(f"cannot list {folder}: {error.strerror}")

    paths, others = [], 0
    for path, is_image in walk_images(folder, fail):
        if is_image:
            paths.append(path)
        else:
            others += 1
    if not paths:
        raise CommandError(f"{folder} holds no image ({others} other files); name a folder with images")
    found = len(paths)
    if found > max_images:
        paths = random.Random(seed).sample(sorted(paths), max_images)
    images = {
        printable(path.relative_to(folder).as_posix()): GalleryImage(path, printable(path.stem), "own")
        for path in sorted(paths)
    }
    return images, found, others
