"""The systems that `compare` and `evaluate` open: their rows, what tells their states, and what is left out."""

import argparse
import sys

import pytest

from modeling_unimur.cli.compared_systems import SYSTEMS, open_systems
from modeling_unimur.cli.errors import CommandError

ARGUMENTS = argparse.Namespace(
    sentence_transformer=None,
    linear_texts=10,
    seed=3,
    language_model=None,
    clip=None,
    trust_remote_code=False,
    debug=True,
)


def test_rows_are_named_and_know_their_state(release_folder):
    chosen = [name for name in SYSTEMS if name != "clip-linear"]
    found, left_out = open_systems(chosen, [str(release_folder)], ARGUMENTS)
    assert [system.name for system in found] == [
        release_folder.name,
        "CLIP-T, last turn",
        "CLIP-T, whole dialogue",
        "CLIP-T, whole + last",
        "BM25",
        "chance",
    ]
    assert not left_out
    assert {system.source for system in found[:4]} == {str(release_folder)}
    assert len({system.revision for system in found[:4]}) == 1
    assert found[0].revision.startswith("sha256:")
    assert (found[4].revision, found[5].revision) == (None, "seed 3")
    named, _ = open_systems(["unimur"], [str(release_folder)], ARGUMENTS, ["ours"])
    assert named[0].name == "ours"


def test_a_system_without_its_library_is_left_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "bm25s", None)
    found, left_out = open_systems(["bm25", "chance"], ["nowhere"], ARGUMENTS)  # no model is opened for these
    assert [system.name for system in found] == ["chance"]
    assert "hybrid" in left_out["BM25"]
    with pytest.raises(CommandError, match="BM25"):
        open_systems(["bm25"], ["nowhere"], ARGUMENTS)
