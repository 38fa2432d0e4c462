"""Every command and every program in README.md and on the pages in docs/, or why it is not run; and the site."""

import importlib
import os
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

import pytest

from conversion.assemble_unimur_mini import assemble
from modeling_unimur.cli.main import COMMANDS, build_parser
from modeling_unimur.releasing.clean_folder import write_model
from tests import tiny

ROOT = Path(__file__).resolve().parents[1]
PATHS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = [path.read_text(encoding="utf-8") for path in PATHS]
README = PAGES[0]


class Snippet(NamedTuple):
    """A block of code, and why it is not run, if a comment before it says so."""

    why: str
    language: str
    body: str


def snippets(text: str) -> list[Snippet]:
    fenced = r"(?:<!-- not run: ([^\n]+) -->\n)?^```(\w*)\n(.*?)^```$"
    return [Snippet(*found) for found in re.findall(fenced, text, flags=re.DOTALL | re.MULTILINE)]


def blocks(language: str, text: str = README) -> list[str]:
    return [body for why, known, body in snippets(text) if known == language and not why]


def commands() -> list[str]:
    shown = [block.replace("\\\n", " ") for page in PAGES for block in blocks("bash", page)]
    lines = [line.split("  #")[0].split(" # ")[0].strip() for block in shown for line in block.splitlines()]
    inline = [found for page in PAGES for found in re.findall(r"`((?:make|unimur) [^`]+)`", page)]
    return sorted({line for line in [*lines, *inline] if line and not line.startswith("#")})


def test_readme_shows_commands():
    assert {"make demo", "make test"} <= set(commands())


@pytest.mark.parametrize("page", PATHS, ids=lambda page: page.name)
def test_every_snippet_is_run_or_says_why_not(page):
    text = page.read_text(encoding="utf-8")
    found = snippets(text)
    assert 2 * len(found) == len(re.findall(r"^ *```", text, flags=re.MULTILINE)), "a fence that no test reads"
    assert {one.language for one in found} <= {"bash", "python", "text"}
    assert not [one for one in found if one.why and len(one.why.split()) < 3], "say why it is not run"
    assert text.count("<!-- not run:") == sum(bool(one.why) for one in found), "this comment is for the next block"
    outside = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    assert not re.findall(r"\n\n    +(?![-*|]|options:|\d+\.)[^\n]*", outside), "fence code, so that a test finds it"


@pytest.mark.parametrize("command", commands())
def test_command_is_one_that_exists(command):
    words = shlex.split(command)
    if "modeling_unimur.cli.main" in words:  # under a launcher
        words = ["unimur", *words[words.index("modeling_unimur.cli.main") + 1 :]]
    if words[0] == "make":
        done = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
    elif words[0] == "unimur":
        if command in (f"unimur {words[1]}", "unimur index build"):  # in a sentence, which names the command alone
            assert words[1] in COMMANDS
            return
        arguments = build_parser(words[1]).parse_args(words[1:])
        named = getattr(arguments, "recipe", None) or []
        assert all((ROOT / recipe).is_file() for recipe in ([named] if isinstance(named, str) else named))
    elif words[:2] == ["pip", "install"]:
        extras = re.findall(r'^    "(\w+)": \[', (ROOT / "setup.py").read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert set(words[2].removeprefix("unimur[").removesuffix("]").split(",")) <= {*extras, "all"}
    elif words[:2] == ["docker", "build"]:
        declared = re.findall(r"^ARG (\w+)", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
        given = [words[place + 1].split("=")[0] for place, word in enumerate(words) if word == "--build-arg"]
        assert words[-1] == "."
        assert set(given) <= set(declared)
    elif words[:2] == ["docker", "run"]:  # the image is called unimur, and its entry point is the command
        own = words[words.index("unimur") + 1 :]
        build_parser(own[0]).parse_args(own)
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
        "index.md": {"MODEL": str(assemble()), "FOLDER": str(Path(pictures[0]).parent)},
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


def test_the_table_of_features_names_tests_that_exist():
    text = (ROOT / "docs" / "features.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ") and not re.match(r"\| (---|feature) ", line)]
    assert len(rows) > 20
    for row in rows:
        named = re.findall(r"`(tests/[\w./-]+)`", row)
        assert named, row
        assert not [name for name in named if not (ROOT / name).exists()], row


# -- the site ---------------------------------------------------------------------------------------------------------
def test_the_site_has_every_page():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    named = re.findall(r": ([\w/]+\.md)$", text[text.index("\nnav:") :], flags=re.MULTILINE)
    assert sorted(named) == sorted(path.name for path in PATHS[1:])


def test_links_out_of_the_site_become_text_or_lead_to_the_repository():
    from docs import site_links

    class Config:
        repo_url = None

    page = "[figures](../benchmarks/results/chat.json), [here](api.md), ![Losses](../benchmarks/results/losses.png)"
    assert "figures (`benchmarks/results/chat.json`), [here](api.md)" in site_links.on_page_markdown(
        page, None, Config, []
    )
    Config.repo_url = "https://code.example/me/unimur/"
    there = site_links.on_page_markdown(page, None, Config, [])
    assert "[figures](https://code.example/me/unimur/blob/main/benchmarks/results/chat.json)" in there
    assert "![Losses](benchmarks/results/losses.png)" in there


def test_the_reference_names_what_exists():
    for name in re.findall(r"^::: (\S+)$", (ROOT / "docs" / "reference.md").read_text(), flags=re.MULTILINE):
        module, _, attribute = name.rpartition(".")
        found = getattr(importlib.import_module(module), attribute, None) or importlib.import_module(name)
        assert (found.__doc__ or "").strip(), name


@pytest.mark.slow
def test_the_site_is_built(tmp_path):
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "from_backbones" in (tmp_path / "reference" / "index.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(tmp_path):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    assemble()
    notebook = nbformat.read(ROOT / "docs" / "quickstart.ipynb", as_version=4)
    assert not [cell for cell in notebook.cells if cell.get("outputs")], "the notebook is kept without outputs"
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert (tmp_path / "gallery").is_dir()
