"""The pinned versions are those of setup.py's ranges, on every Python that it names."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest
import setuptools
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import modeling_unimur
from tests.environments.floor import ASIDE, HERE, REQUIREMENTS, pins

ROOT = Path(__file__).parents[2]
TESTED, OLDEST = ROOT / "constraints.txt", HERE / "oldest.txt"
PYTHONS = ["3.10", "3.11", "3.12", "3.13"]
# What others of the pinned packages raise above the bound.
RAISED = {"huggingface-hub", "pyarrow"}


@pytest.fixture(scope="module")
def metadata():
    """What setup.py says."""
    said: dict = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setuptools, "setup", lambda **keywords: said.update(keywords))
        runpy.run_path(str(ROOT / "setup.py"))
    return said


@pytest.fixture(scope="module")
def ranges(metadata):
    """Requirements of the package and of the extras that `make` installs, by canonical name."""
    lines = [*metadata["install_requires"], *metadata["extras_require"]["all"], *metadata["extras_require"]["dev"]]
    return {canonicalize_name(requirement.name): requirement for requirement in map(Requirement, lines)}


def _on(python: str) -> dict[str, str]:
    return {"python_version": python, "python_full_version": f"{python}.1", "sys_platform": "linux"}


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("file", [TESTED, OLDEST], ids=lambda file: file.name)
def test_every_requirement_is_pinned_within_its_range(ranges, file, python):
    found = pins(file, _on(python))
    outside = {name: found.get(name) for name, one in ranges.items() if found.get(name, "0") not in one.specifier}
    assert not outside, "`make constraints` writes the pinned versions anew"


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("file", [OLDEST, REQUIREMENTS], ids=lambda file: file.name)
def test_the_oldest_are_the_lower_bounds(ranges, metadata, file, python):
    found, raised = pins(file, _on(python)), RAISED if file == OLDEST else set()
    core = {canonicalize_name(Requirement(line).name) for line in metadata["install_requires"]}
    for name in (core if file == REQUIREMENTS else ranges.keys()) - raised:
        (bound,) = ranges[name].specifier
        assert Version(found[name]) == Version(bound.version), name


def test_hashes_and_nothing_of_one_machine():
    for file in (TESTED, OLDEST, REQUIREMENTS):
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"://|^-", text, re.MULTILINE), file.name
        names = re.findall(r"^[a-z0-9].*==", text, re.MULTILINE)
        if file != REQUIREMENTS:
            assert len(re.findall(r"^\S+==[^\\]*\\\n +--hash=sha256:", text, re.MULTILINE)) == len(names)
    assert pins().keys() >= set(ASIDE)


def test_the_version_stands_in_one_place(metadata):
    assert metadata["version"] == modeling_unimur.__version__
    assert modeling_unimur.__version__ not in (ROOT / "setup.py").read_text(encoding="utf-8")
    if sys.version_info >= (3, 11):
        import tomllib

        assert "project" not in tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
