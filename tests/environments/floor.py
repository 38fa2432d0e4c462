"""The oldest transformers that loads a release, with the oldest packages that it accepts, installed aside."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from modeling_unimur.data.cache import build_once, cache_dir

HERE = Path(__file__).parent
# The lowest versions that setup.py allows, of what the package itself needs: `make constraints` writes them. Older
# transformers (5.5 to 5.9 were tried) copy only the files that an entry file imports itself when they load code from a
# local folder.
REQUIREMENTS = HERE / "floor.txt"
# Those of them that are installed aside: after the first three what an old huggingface_hub needs.
ASIDE = ("transformers", "huggingface-hub", "tokenizers", "httpx", "httpcore", "anyio", "certifi", "h11", "idna")


def pins(requirements: Path = REQUIREMENTS, environment: dict[str, str] | None = None) -> dict[str, str]:
    """Versions by canonical name.

    Args:
        requirements: a file of pinned versions, with or without hashes.
        environment: of the markers, in place of this Python's and this system's.
    """
    lines = [line.split("\\")[0].strip() for line in requirements.read_text(encoding="utf-8").splitlines()]
    found = [Requirement(line) for line in lines if line and not line.startswith(("#", "--"))]
    return {
        canonicalize_name(one.name): str(one.specifier).removeprefix("==")
        for one in found
        if one.marker is None or one.marker.evaluate(environment)
    }


def installed_aside(packages: dict[str, str], name: str) -> Path:
    """A folder with pinned packages and nothing that they require, installed once into the cache.

    Args:
        packages: versions by name.
        name: of the folder.

    Raises:
        RuntimeError: they could not be installed.
    """
    wanted = [f"{package}=={version}" for package, version in sorted(packages.items())]

    def install(folder: Path) -> None:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
        done = subprocess.run([*command, *wanted], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{name} could not be installed: {done.stderr[-400:]}")

    version = hashlib.sha256("\n".join(wanted).encode()).hexdigest()[:12]
    return build_once(cache_dir() / "environments" / f"{name}-{version}", install)


def floor_folder() -> Path:
    """A folder with these packages, to be put first on the path."""
    oldest = pins()
    return installed_aside({name: oldest[name] for name in ASIDE}, f"transformers-{oldest['transformers']}")
