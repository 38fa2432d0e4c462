"""What a release ships beside its weights: how many files of code, and how many lines of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers.dynamic_module_utils import get_relative_import_files

from tests import house

PACKAGE = house.ROOT / house.PACKAGE
MOST_FILES = 12
# Without comments, docstrings and empty lines. A bound only gets lower.
MOST_LINES = {"unimur": 3853, "univl_dr": 2476}


def shipped(name: str) -> set[Path]:
    """The files that transformers copies beside a saved model."""
    entry = PACKAGE / f"modeling_{name}.py"
    return {entry, *map(Path, get_relative_import_files(entry))}


@pytest.mark.parametrize("name", MOST_LINES)
def test_a_release_is_small(name):
    files = shipped(name)
    assert {f"{part}_{name}.py" for part in ("configuration", "modeling", "processing")} <= {one.name for one in files}
    assert PACKAGE / "pipeline_multimodal_retrieval.py" in files
    assert len(files) <= MOST_FILES, sorted(one.name for one in files)
    lines = {one.name: house.count_code(one) for one in files}
    assert sum(lines.values()) <= MOST_LINES[name], lines


@pytest.mark.parametrize("name", MOST_LINES)
def test_the_model_does_not_import_the_pipeline(name):
    seen, left = set(), [f"{house.PACKAGE}.{part}_{name}" for part in ("configuration", "modeling", "processing")]
    while left:
        module = left.pop()
        seen.add(module)
        left += house.arrows()[module] - seen
    assert f"{house.PACKAGE}.pipeline_multimodal_retrieval" not in seen
    assert f"{house.PACKAGE}.memory_index" not in seen
