"""The cache folder, and folders in it that are made once."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path


class PackageUnavailable(RuntimeError):
    """A package could not be fetched; the message names the package, the cause and the remedy."""


def cache_dir() -> Path:
    """Return the folder of installed data and built models, `$UNIMUR_CACHE` or `~/.cache/unimur`; it may not exist."""
    return Path(os.environ.get("UNIMUR_CACHE") or "~/.cache/unimur").expanduser().absolute()


def files_stamp(files: Iterable[str | os.PathLike], *choices: str) -> str:
    """Return 32 hexadecimal digits that change with the sizes and times of files and folders, and with the choices
    that go with them. The files are not read. A folder's time changes when a file is added to it or removed."""
    lines = list(choices)
    for file in files:
        try:
            status = os.stat(file)
            lines.append(f"{os.path.abspath(file)} {status.st_size} {status.st_mtime_ns}")
        except OSError:
            lines.append(f"{os.path.abspath(file)} missing")
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()[:32]


def folder_stamp(folder: str | os.PathLike) -> str:
    """Return `files_stamp` of the files of a model folder."""
    files = (path for path in sorted(Path(folder).rglob("*")) if path.is_file() and "__pycache__" not in path.parts)
    return files_stamp(files)


def build_once(target: Path, build: Callable[[Path], object]) -> Path:
    """Makes the folder `target` by `build(empty_folder)`, or returns at once when it is there.

    The folder is filled aside and renamed: an interrupted or a concurrent build never leaves a half-filled one. What
    `build` raises is passed on.
    """
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        # Temporary folders are private (0700); what is kept gets the usual permissions.
        aside.chmod(0o755)
        build(aside)
        try:
            aside.rename(target)
        except OSError:
            # Another process finished first: its folder is as good as ours.
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return target


def build_version(target: Path, version: str, build: Callable[[Path], object]) -> Path:
    """Makes one version of the folder `target`, a link to `<target>-<version>`, by `build_once`, and removes the
    versions before it. `version` changes with whatever the content depends on."""
    folder = build_once(target.with_name(f"{target.name}-{version}"), build)
    if target.is_symlink() and target.resolve() == folder.resolve():
        return target
    previous = target.resolve() if target.is_symlink() else None
    link = target.with_name(f".{target.name}-{os.getpid()}")
    link.symlink_to(folder.name, target_is_directory=True)
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    os.replace(link, target)
    if previous is not None and previous.parent == target.parent.resolve():
        shutil.rmtree(previous, ignore_errors=True)
    return target
