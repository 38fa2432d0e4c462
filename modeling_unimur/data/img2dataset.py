"""What img2dataset writes: webdataset archives, or folders of files, with a caption beside each image."""

from __future__ import annotations

import glob
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
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


def find_archives(pattern: str | os.PathLike) -> list[str]:
    """Find the archives of a path, a folder, a wildcard or a pattern with braces, sorted within each wildcard.

    Names from braces are kept when the file is not there, so that the reader can report it.

    Raises:
        FileNotFoundError: not one of them is there.
    """
    pattern = os.fspath(pattern)
    names: list[str] = []
    for name in expand_braces(pattern) if not os.path.exists(pattern) else [pattern]:
        if os.path.isdir(name):
            names.extend(sorted(glob.glob(os.path.join(glob.escape(name), "*.tar"))))
        elif any(character in name for character in "*?["):
            names.extend(sorted(glob.glob(name)))
        else:
            names.append(name)
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
        else:
            first = next(iter(sample.members.values())).name
            yield _checked(sample.caption(), sample.image(), f"{sample.archive}: {first}")


def read_folder(folder: str | os.PathLike) -> Iterator[CaptionedImage | Skipped]:
    """Pairs of img2dataset's `files` format: `00000/000000012.jpg` with `.txt` or `.json` beside it; sorted by name.

    Raises:
        FileNotFoundError: no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}.")
    for part in [folder, *sorted(entry for entry in folder.iterdir() if entry.is_dir())]:
        names = sorted(entry.name for entry in os.scandir(part) if entry.is_file())
        for name in names:
            stem, _, suffix = name.rpartition(".")
            if suffix.lower() not in _IMAGES:
                continue
            words, about = part / f"{stem}.txt", part / f"{stem}.json"
            caption = ""
            if words.is_file():
                caption = _words(words.read_bytes())
            elif about.is_file():
                caption = _json_caption(about.read_bytes())
            yield _checked(caption, str(part / name), str(part / name))


def _checked(caption: str, image: str | None, name: str) -> CaptionedImage | Skipped:
    if image is None:
        return Skipped("image is missing", name)
    return CaptionedImage(caption, image) if caption else Skipped("no caption", name)


def _words(data: bytes) -> str:
    return " ".join(data.decode("utf-8", errors="replace").split())


def _json_caption(data: bytes) -> str:
    try:
        caption = parse_json(data).get("caption")
    except (ValueError, AttributeError):
        return ""
    return " ".join(caption.split()) if isinstance(caption, str) else ""


def download_failures(archives: Sequence[str]) -> int:
    """Return the number of failed downloads, from the `_stats.json` files beside archives or folders."""
    failed = 0
    for archive in archives:
        statistics = Path(archive).with_name(f"{Path(archive).stem}_stats.json")
        try:
            counts = parse_json(statistics.read_bytes())
            failed += int(counts["count"]) - int(counts["successes"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return failed
