"""Pictures by address: a file's path, or a member of a tar archive that is read where it lies."""

from __future__ import annotations

import io
import os
import re

from PIL import Image

from ..image_loading import load_image

_MEMBER = re.compile(r"(?P<archive>.+\.tar)#(?P<offset>\d+)\+(?P<size>\d+)", re.DOTALL)


def member_address(archive: str | os.PathLike, offset: int, size: int) -> str:
    """Address of the `size` bytes at `offset` of an uncompressed tar archive: `shard.tar#1536+20480`."""
    return f"{os.fspath(archive)}#{offset}+{size}"


def split_address(address: str) -> tuple[str, int, int | None]:
    """File, offset and size that an address names; a plain file has offset 0 and no size."""
    member = _MEMBER.fullmatch(address)
    if member is None:
        return address, 0, None
    return member["archive"], int(member["offset"]), int(member["size"])


def read_picture_bytes(address: str) -> bytes:
    """The encoded picture at an address.

    Raises:
        OSError: the file is missing or cannot be read.
        ValueError: the archive ends within the member.
    """
    path, offset, size = split_address(address)
    with open(path, "rb") as file:
        file.seek(offset)
        data = file.read(-1 if size is None else size)
    if size is not None and len(data) < size:
        raise ValueError(f"{address}: the archive ends after {len(data)} of {size} bytes; bring it anew")
    return data


def decode_picture(data: bytes, name: str) -> Image.Image:
    """Decodes an encoded picture as `load_image` does a file: RGB, upright, on white.

    Raises:
        ValueError: the bytes are no picture that can be decoded; the message begins with `name`.
    """
    try:
        with Image.open(io.BytesIO(data)) as picture:
            return load_image(picture)
    except Exception as error:  # damaged files make decoders raise nearly anything
        raise ValueError(f"{name}: not a picture that can be decoded: {error}") from error


class FileStamps:
    """Tells by path, size and time of change whether a picture's bytes may have changed, without reading them."""

    def __init__(self) -> None:
        self._archives: dict[str, str] = {}

    def stamp(self, address: str) -> str:
        """A string that changes with the file behind an address.

        Raises:
            OSError: the file is not there.
        """
        path, offset, size = split_address(address)
        if size is None:
            return self._stamp(path)
        if path not in self._archives:
            self._archives[path] = self._stamp(path)
        return f"{self._archives[path]}\0{offset}+{size}"

    @staticmethod
    def _stamp(path: str) -> str:
        status = os.stat(path)
        return f"{os.path.abspath(path)}\0{status.st_size}\0{status.st_mtime_ns}"


__all__ = ["FileStamps", "decode_picture", "member_address", "read_picture_bytes", "split_address"]
