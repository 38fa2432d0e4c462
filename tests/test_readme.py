"""Every command and every program in README.md and on the pages in docs/."""

import os
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from conversion.assemble_unimur_mini import assemble
from modeling_unimur.cli.main import build_parser
from modeling_unimur.releasing.clean_folder import write_model
from tests import tiny

ROOT = Path(__file__).resolve().parents[1]
PATHS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = [path.read_text(encoding="utf-8") for path in PATHS]
README = PAGES[0]


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


def anchors(page: Path) -> set[str]:
    """The addresses of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PATHS, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\((?!http)([^)#]*)(?:#([^)]+))?\)", page.read_text(encoding="utf-8"))
    missing = [name for name, _ in targets if not (page.parent / name).exists()]
    assert not missing
    linked = [((page.parent / name) if name else page, anchor) for name, anchor in targets if anchor]
    assert not [(path.name, anchor) for path, anchor in linked if anchor not in anchors(path)]


def test_readme_fits_on_a_few_screens():
    assert len(README.splitlines()) <= 200


@pytest.fixture(scope="module")
def names(tmp_path_factory, make_model, pictures) -> dict:
    """What programs find under each name, by page; other pages have no programs."""
    work = tmp_path_factory.mktemp("programs")
    backbones = {"LANGUAGE_MODEL": str(tiny.language_model(work / "lm")), "CLIP": str(tiny.clip(work / "clip"))}
    write_model(work / "release", *make_model(), heads_only=False)
    return {
        "README.md": {"MODEL": str(assemble()), "IMAGES": pictures, **backbones},
        "api.md": {
            "MODEL": str(work / "release"), "IMAGES": pictures, **backbones,
            "RERANKER": str(tiny.cross_encoder(work / "reranker")),
        },
        "backbones.md": {**backbones, "ENCODER": str(tiny.sentence_encoder(work / "encoder"))},
    }  # fmt: skip


# What must hold at the end of a page's programs.
ENDS = {"README.md": "len(found['text']) == 3 and len(found['image']) == 3 and len(scores[0]) == 2 + len(IMAGES)"}
WITH_PROGRAMS = [path for path, text in zip(PATHS, PAGES, strict=True) if blocks("python", text)]


@pytest.mark.parametrize("page", WITH_PROGRAMS, ids=lambda page: page.name)
def test_programs_run(page, names, tmp_path):
    programs = [
        block for block in blocks("python", page.read_text(encoding="utf-8")) if "push_to_hub" not in block
    ]  # tests/test_push_to_hub.py has those
    given = (f"{name} = {value!r}" for name, value in names[page.name].items())
    body = "\n".join([*given, *programs, f"assert {ENDS.get(page.name, True)}"])
    # Processes that a program starts import it, and do not run it again.
    program = tmp_path / "program.py"
    program.write_text(
        "def main():\n" + textwrap.indent(body, "    ") + "\n\nif __name__ == '__main__':\n    main()\n"
    )
    done = subprocess.run(
        [sys.executable, str(program)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_architecture_names_files_that_exist():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = re.findall(r"`([\w./-]+(?:\.py|/))`", text)
    assert len(named) > 10
    assert not [name for name in named if not any((top / name).exists() for top in (ROOT, ROOT / "modeling_unimur"))]
