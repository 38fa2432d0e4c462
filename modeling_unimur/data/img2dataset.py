"""What img2dataset writes: webdataset archives with a caption beside each image."""

from __future__ import annotations

import glob
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .image_bytes import member_address
from .json_lines import parse_json

_IMAGES = ("jpg", "jpeg", "png", "webp", "gif")
# Captions and metadata are smaller; a sparse member may claim any size.
_MEMBER_BYTES = 1 << 24
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


class CaptionedImage(NamedTuple):
    """One usable pair; `image` is an address as in `data.image_bytes`."""

    caption: str
    image: str


class Skipped(NamedTuple):
    """One pair (or a whole archive) that cannot be used."""

    reason: str
    item: str


def expand_braces(pattern: str) -> list[str]:
    """Expand the braces of a pattern as a shell does: `{00000..00331}.tar`, `{a,b}/x`."""
    braces = _BRACES.search(pattern)
    if braces is None:
        return [pattern]
    bounds = _RANGE.fullmatch(braces[1])
    if bounds:
        first, last, width = int(bounds[1]), int(bounds[2]), len(bounds[1])
        choices = [str(number).zfill(width) for number in range(first, last + 1)]
    else:
        choices = braces[1].split(",")
    head, tail = pattern[: braces.start()], pattern[braces.end() :]
    return [name for choice in choices for name in expand_braces(f"{head}{choice}{tail}")]


def expand_pattern(pattern: str) -> list[str]:
    """A path that is there as it is; else the paths of a pattern with braces and wildcards, sorted within each
    wildcard. Names from braces are kept when the file is not there, so that the reader can report it."""
    if os.path.exists(pattern):
        return [pattern]
    names: list[str] = []
    for name in expand_braces(pattern):
        names += sorted(glob.glob(name)) if any(sign in name for sign in "*?[") else [name]
    return names


def find_archives(pattern: str | os.PathLike) -> list[str]:
    """Find the archives of a path, a folder or a pattern, as `expand_pattern` does.

    Raises:
        FileNotFoundError: not one of them is there.
    """
    names: list[str] = []
    for name in expand_pattern(os.fspath(pattern)):
        is_folder = os.path.isdir(name)
        names += sorted(glob.glob(os.path.join(glob.escape(name), "*.tar"))) if is_folder else [name]
    if not any(os.path.isfile(name) for name in names):
        raise FileNotFoundError(f"{pattern}: there is no such tar archive, and no folder that holds one.")
    return names


@dataclass(frozen=True)
class Sample:
    """Members of a webdataset archive that share a name: `members` by their endings, lower-case, as `{"jpg": ...}`.

    `tar` reads them until the next sample is asked for.
    """

    archive: str
    name: str
    members: dict[str, tarfile.TarInfo]
    tar: tarfile.TarFile

    def bytes(self, suffix: str) -> bytes:
        """Return the content of a member, at most its first 16 MiB."""
        return self.tar.extractfile(self.members[suffix]).read(_MEMBER_BYTES)

    def image(self) -> str | None:
        """Return the address of the sample's image."""
        found = next((self.members[suffix] for suffix in _IMAGES if suffix in self.members), None)
        return None if found is None else member_address(self.archive, found.offset_data, found.size)

    def caption(self) -> str:
        """Return the caption from `.txt` or, if there is none, from `.json`; empty without either."""
        if "txt" in self.members:
            return _words(self.bytes("txt"))
        return _json_caption(self.bytes("json")) if "json" in self.members else ""


def read_samples(archives: Sequence[str]) -> Iterator[Sample | Skipped]:
    """Read the samples of webdataset archives in the order of the archives and their members.

    Yields:
        each sample, or `archive is missing`, `archive is damaged` (what stands before the damage is read).
    """
    for archive in archives:
        if not os.path.isfile(archive):
            yield Skipped("archive is missing", archive)
            continue
        members: dict[str, tarfile.TarInfo] = {}
        key = None
        try:
            with tarfile.open(archive, "r:") as tar:
                for member in tar:
                    if not member.isfile():
                        continue
                    folder, _, base = member.name.rpartition("/")
                    stem, _, suffix = base.partition(".")
                    if (folder, stem) != key:
                        if members:
                            yield Sample(archive, "/".join(filter(None, key)), members, tar)
                        key, members = (folder, stem), {}
                    members[suffix.lower()] = member
                if os.path.getsize(archive) < tar.offset + tarfile.BLOCKSIZE:  # tarfile itself takes that for the end
                    raise tarfile.ReadError("it is cut off")
                if members:
                    yield Sample(archive, "/".join(filter(None, key)), members, tar)
        except Exception as error:  # damaged headers make tarfile raise nearly anything
            yield Skipped("archive is damaged", f"{archive}: {error}")


def read_archives(archives: Sequence[str]) -> Iterator[CaptionedImage | Skipped]:
    """Read the pairs of webdataset archives in the order of the archives and their members. Images stay where they
    are: their addresses name archive, offset and size.

    Yields:
        each usable pair, what `read_samples` skips, `no caption`, or `image is missing`.
    """
    for sample in read_samples(archives):
        if isinstance(sample, Skipped):
            yield sample
            continue
        caption, image = sample.caption(), sample.image()
        name = f"{sample.archive}: {next(iter(sample.members.values())).name}"
        if image is None:
            yield Skipped("image is missing", name)
        else:
            yield CaptionedImage(caption, image) if caption else Skipped("no caption", name)


def _words(data: bytes) -> str:
    return " ".join(data.decode("utf-8", errors="replace").split())


def _json_caption(data: bytes) -> str:
    try:
        caption = parse_json(data).get("caption")
    except (ValueError, AttributeError):
        return ""
    return " ".join(caption.split()) if isinstance(caption, str) else ""
