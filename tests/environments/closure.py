"""Environments made of links: only what some packages require, out of those that are installed here."""

import os
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement

HERE = Path(__file__).parent


def closure(*packages: str) -> set[str]:
    """The packages and all that they require, without extras."""
    found: set[str] = set()
    waiting = list(packages)
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        if name in found:
            continue
        found.add(name)
        for line in distribution(name).requires or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    return found


def link(folder: Path, *packages: str) -> Path:
    """Makes a folder for `PYTHONPATH` out of links to the packages and all that they require."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in closure(*packages):
        package = distribution(name)
        for top in {file.parts[0] for file in package.files or ()} - {"..", "__pycache__"}:
            if not (folder / top).exists():
                (folder / top).symlink_to(Path(package.locate_file(top)).resolve())
    return folder


def run(script: str, *arguments, path: "list[Path]", work: Path, **environment) -> subprocess.CompletedProcess:
    """Runs a script of this folder where only the given folders and the standard library can be imported.

    Args:
        script: its file's name.
        arguments: its arguments.
        path: the folders that packages are imported from, first ones first.
        work: a folder of its own for the code that transformers copies.
        environment: further environment variables.
    """
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "PYTHON", "TRANSFORMERS_"))}
    variables = {
        "PYTHONPATH": os.pathsep.join(map(str, path)),
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(work / "home"),
        "HF_MODULES_CACHE": str(work / "modules"),
        **environment,
    }
    return subprocess.run(
        [sys.executable, "-S", "-B", str(HERE / script), *map(str, arguments)],
        cwd=work,
        env={**kept, **variables},
        capture_output=True,
        text=True,
        timeout=300,
    )
