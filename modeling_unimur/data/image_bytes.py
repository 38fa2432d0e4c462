"""Images by address: a file's path, a member of a tar archive or a line of a table, read where it lies."""

from __future__ import annotations

import base64
import binascii
import errno
import os
import re
import stat

from ..image_loading import MAX_FILE_BYTES

_MEMBER = re.compile(r"(?P<archive>.+\.tar)#(?P<offset>\d+)\+(?P<size>\d+)", re.DOTALL)
_LINE = re.compile(r"(?P<table>.+\.tsv)#(?P<offset>\d+)", re.DOTALL)
# In place of a size: up to the end of the line.
TO_LINE_END = -1
_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"


def member_address(archive: str | os.PathLike, offset: int, size: int) -> str:
    """Return the address of `size` bytes at `offset` of an uncompressed tar archive: `shard.tar#1536+20480`."""
    return f"{os.fspath(archive)}#{offset}+{size}"


def line_address(table: str | os.PathLike, offset: int) -> str:
    """Address of the image in the line that begins at byte `offset` of a table `id<TAB>base64`: `imgs.tsv#1536`."""
    return f"{os.fspath(table)}#{offset}"


def split_address(address: str) -> tuple[str, int, int | None]:
    """File, offset and size that an address names; a plain file has offset 0 and no size, a line `TO_LINE_END`."""
    member = _MEMBER.fullmatch(address)
    if member is not None:
        return member["archive"], int(member["offset"]), int(member["size"])
    line = _LINE.fullmatch(address)
    return (line["table"], int(line["offset"]), TO_LINE_END) if line else (address, 0, None)


def read_image_bytes(address: str) -> bytes:
    """Read the encoded image at an address.

    A truncated JPEG in a table gets an end marker, so that its first part can be decoded.

    Raises:
        OSError: the file is missing, cannot be read, or is no regular file: a pipe or a device may never end.
        ValueError: there are too many bytes, the archive ends within the member, or the table's line is not
            `id<TAB>base64`.
    """
    path, offset, size = split_address(address)
    status = _regular(path)
    length = status.st_size if size is None else size
    if length > MAX_FILE_BYTES:
        raise ValueError(f"{address}: too large: {length} bytes are more than {MAX_FILE_BYTES}")
    # Opened for each image: a file that processes inherit would share its position.
    with open(path, "rb") as file:
        file.seek(offset)
        if size == TO_LINE_END:
            return _decode_line(file.readline(2 * MAX_FILE_BYTES), address)
        data = file.read(-1 if size is None else size)
    if size is not None and len(data) < size:
        raise ValueError(f"{address}: the archive ends after {len(data)} of {size} bytes; bring it anew")
    return data


def _decode_line(line: bytes, address: str) -> bytes:
    _, tab, encoded = line.rstrip(b"\r\n").partition(b"\t")
    encoded = encoded.strip()
    try:
        # A line that was cut holds no whole number of groups.
        data = base64.b64decode(encoded[: len(encoded) // 4 * 4])
    except binascii.Error as error:
        raise ValueError(f"{address}: no base64 in the second column: {error}") from error
    if not tab or not data:
        raise ValueError(f"{address}: the line is not id<TAB>base64: the index of lines may be another file's")
    if data.startswith(_JPEG_START) and not data.rstrip(b"\0").endswith(_JPEG_END):
        data += _JPEG_END
    return data


def file_stamp(address: str) -> str:
    """Returns a string that changes with the file behind an address, without reading it: its path, size and times.

    The times include the change time of the inode, which no program can set.

    Raises:
        OSError: the file is not there, or no regular file.
    """
    path, offset, size = split_address(address)
    status = _regular(path)
    stamp = f"{os.path.abspath(path)}\0{status.st_size}\0{status.st_mtime_ns}\0{status.st_ctime_ns}"
    return stamp if size is None else f"{stamp}\0{offset}+{size}"


def _regular(path: str) -> os.stat_result:
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", path)
    return status


# Fewer images than this are decoded before worker processes have started.
_WORTH_WORKERS = 2000
_MOST_WORKERS = 32


def worker_count(wanted: int | None, images: int) -> int:
    """Return the number of worker processes: `wanted`, or one fewer than the CPUs if there are many images."""
    if wanted is not None:
        return wanted
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cpus - 1, _MOST_WORKERS) if images >= _WORTH_WORKERS else 0
