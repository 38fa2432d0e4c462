"""The oldest transformers that loads a release, with the oldest packages that it accepts, installed aside."""

import hashlib
import subprocess
import sys
from pathlib import Path

from modeling_unimur.data.packages import build_once, cache_dir

REQUIREMENTS = Path(__file__).with_name("floor.txt")


def pins() -> dict[str, str]:
    """Versions by package."""
    lines = REQUIREMENTS.read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def installed_aside(requirements: Path, name: str) -> Path:
    """A folder with the packages of a file and nothing that they require, installed once into the cache.

    Args:
        requirements: pinned packages.
        name: of the folder.

    Raises:
        RuntimeError: they could not be installed.
    """

    def install(folder: Path) -> None:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
        done = subprocess.run([*command, "-r", str(requirements)], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{requirements.name} could not be installed: {done.stderr[-400:]}")

    version = hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]
    return build_once(cache_dir() / "environments" / f"{name}-{version}", install)


def floor_folder() -> Path:
    """A folder with these packages, to be put first on the path."""
    return installed_aside(REQUIREMENTS, f"transformers-{pins()['transformers']}")


def gradio_folder() -> Path:
    """A folder with Gradio, to be put first on the path: it holds Pillow back."""
    return installed_aside(REQUIREMENTS.with_name("gradio.txt"), "gradio")
