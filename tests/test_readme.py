"""Every command and every program in README.md, and the commands of the pages in docs/."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from conversion.assemble_unimur_mini import assemble
from modeling_unimur.cli.main import build_parser
from tests import tiny

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


PAGES = [README, *(path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md")))]


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def commands() -> list[str]:
    shown = [block for page in PAGES for block in blocks("bash", page)]
    lines = [line.split("  #")[0].split(" # ")[0].strip() for block in shown for line in block.splitlines()]
    inline = [found for page in PAGES for found in re.findall(r"`((?:make|unimur) [^`]+)`", page)]
    return sorted({line for line in [*lines, *inline] if line and not line.startswith("#")})


def test_readme_shows_commands():
    assert {"make demo", "make test"} <= set(commands())


@pytest.mark.parametrize("command", commands())
def test_command_is_one_that_exists(command):
    words = shlex.split(command)
    if "modeling_unimur.cli.main" in words:  # under a launcher
        words = ["unimur", *words[words.index("modeling_unimur.cli.main") + 1 :]]
    if words[0] == "make":
        done = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
    elif words[0] == "unimur":
        arguments = build_parser(words[1]).parse_args(words[1:])
        recipe = getattr(arguments, "recipe", None)
        assert recipe is None or (ROOT / recipe).is_file()
    elif words[:2] == ["python", "-m"]:
        done = subprocess.run([sys.executable, "-m", words[2], "--help"], cwd=ROOT, capture_output=True, timeout=60)
        assert done.returncode == 0, done.stderr
    else:
        pytest.fail(f"README shows a command that no test knows: {command}")


def test_links_and_pictures_are_there():
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    missing = [t for t in targets if not t.startswith("http") and not (ROOT / t).exists()]
    assert not missing


def test_programs_run(tmp_path, pictures):
    language, clip = tiny.language_model(tmp_path / "lm"), tiny.clip(tmp_path / "clip")
    names = {"MODEL": str(assemble()), "PICTURES": pictures, "LANGUAGE_MODEL": str(language), "CLIP": str(clip)}
    programs = [
        block for block in blocks("python") if "push_to_hub" not in block
    ]  # tests/test_push_to_hub.py has those
    program = "\n".join([*(f"{name} = {value!r}" for name, value in names.items()), *programs])
    program += "\nassert len(found['text']) == 3 and len(found['image']) == 3 and len(scores[0]) == 2 + len(PICTURES)"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
