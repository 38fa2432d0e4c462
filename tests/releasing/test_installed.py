"""What an installed package has inside that a checkout has beside it."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_the_space_and_the_cards_template_are_in_the_package(tmp_path):
    pytest.importorskip("setuptools")
    command = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    package = tmp_path / "modeling_unimur"
    spec = importlib.util.spec_from_file_location("installed", package / "releasing" / "hub_cards.py")
    installed = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(installed)
    assert package / "hub_cards" / "template" / "card.yaml" == installed.CARD_TO_FILL
    assert "FILL IN" in installed.CARD_TO_FILL.read_text(encoding="utf-8")
    for name in ("app.py", "responder.py", "replies.txt", "requirements.txt", "README.md"):
        copied, here = installed.hub_cards("space") / name, ROOT / "hub_cards" / "space" / name
        assert copied.read_bytes() == here.read_bytes()
    assert (package / "releasing" / "model_card.md.jinja").is_file()
    assert not list((package / "hub_cards").rglob("*.pyc"))
    here = ROOT / "examples" / "mini" / "unimur_mini"
    files = [file.relative_to(here) for file in here.rglob("*") if file.is_file() and file.suffix != ".pyc"]
    assert files
    assert {file for file in files if not (tmp_path / "unimur_mini" / file).is_file()} == set()
