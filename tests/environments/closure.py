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


def _process(script: str, arguments: tuple, path: "list[Path]", work: Path, environment: dict) -> dict:
    """Arguments of `subprocess` for a script of this folder."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "PYTHON", "TRANSFORMERS_"))}
    variables = {
        "PYTHONPATH": os.pathsep.join(map(str, path)),
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(work / "home"),
        "HF_MODULES_CACHE": str(work / "modules"),
        **environment,
    }
    command = [sys.executable, "-S", "-B", str(HERE / script), *map(str, arguments)]
    return {"args": command, "cwd": work, "env": {**kept, **variables}, "text": True}


def run(script: str, *arguments, path: "list[Path]", work: Path, **environment) -> subprocess.CompletedProcess:
    """Runs a script of this folder where only the given folders and the standard library can be imported.

    Args:
        script: its file's name.
        arguments: its arguments.
        path: the folders that packages are imported from, first ones first.
        work: a folder of its own for the code that transformers copies.
        environment: further environment variables.
    """
    return subprocess.run(**_process(script, arguments, path, work, environment), capture_output=True, timeout=300)


def start(script: str, *arguments, path: "list[Path]", work: Path, **environment) -> subprocess.Popen:
    """Starts a script as `run` does, to be talked to by its standard input and output."""
    process = _process(script, arguments, path, work, environment)
    with (work / "stderr.txt").open("w", encoding="utf-8") as errors:
        return subprocess.Popen(**process, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors)
