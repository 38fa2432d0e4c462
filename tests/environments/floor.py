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


def floor_folder() -> Path:
    """A folder with these packages, to be put first on the path; installed once into the cache."""

    def install(folder: Path) -> None:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
        done = subprocess.run([*command, "-r", str(REQUIREMENTS)], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{REQUIREMENTS.name} could not be installed: {done.stderr[-400:]}")

    version = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:12]
    return build_once(cache_dir() / "environments" / f"transformers-{pins()['transformers']}-{version}", install)
