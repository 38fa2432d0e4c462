"""The Dockerfile: it copies what is there, and installs by the README's command."""

import fnmatch
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from modeling_unimur.cli.main import build_parser

ROOT = Path(__file__).resolve().parents[1]
# What `make demo` reads; nothing of it may be kept out of the build.
NEEDED = ("Makefile", "setup.py", "constraints.txt", "README.md", "conversion", "examples/mini", "hub_cards")


@pytest.fixture(scope="module")
def instructions() -> list[tuple[str, str]]:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


def test_the_base_is_an_argument(instructions):
    assert [words for name, words in instructions[:2]] == ["BASE=ubuntu:24.04", "${BASE}"]
    assert [name for name, _ in instructions[:2]] == ["ARG", "FROM"]


def test_what_is_copied_is_there(instructions):
    for name, words in instructions:
        if name == "COPY":
            *sources, _ = [word for word in words.split() if not word.startswith("--")]
            assert not [source for source in sources if not (ROOT / source).exists()]
    ignored = [line for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line]
    for needed in NEEDED:
        assert (ROOT / needed).exists()
        parts = [needed, *(parent.as_posix() for parent in Path(needed).parents)]
        assert not [rule for rule in ignored if any(fnmatch.fnmatch(part, rule) for part in parts)], needed


def test_it_installs_as_the_readme_says(instructions):
    ran = [words for name, words in instructions if name == "RUN"]
    assert ran[1:] == ["make demo"]
    assert "\nmake demo " in (ROOT / "README.md").read_text(encoding="utf-8")
    # What a make around the tests hands down would make this one report the folders that it enters.
    alone = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    done = subprocess.run(["make", "-n", "demo"], cwd=ROOT, env=alone, capture_output=True, text=True, timeout=60)
    programs = {
        shlex.split(line)[0] for line in done.stdout.splitlines() if line and not line.startswith(("@", "echo"))
    }
    assert "apt-get install" in ran[0]
    assert {"make", "python3", "python3-venv"} <= set(ran[0].split())
    assert programs  # all of make's own commands are python's, or the environment's
    assert all(program.startswith((".venv/", "python3", "touch", "echo", "test")) for program in programs), programs


def test_nobody_runs_as_root_and_the_command_is_there(instructions):
    named = dict(instructions)
    assert named["USER"] == "unimur"
    order = [name for name, _ in instructions]
    assert order.index("USER") < order.index("COPY")
    assert named["ENTRYPOINT"] == '["/app/.venv/bin/unimur"]'
    assert named["WORKDIR"] == "/app"
    build_parser(None).parse_args([])
