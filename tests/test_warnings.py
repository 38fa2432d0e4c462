"""The README's three ways print no warning that their user can do nothing about."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from conversion.assemble_unimur_mini import assemble
from tests.test_readme import blocks

# All that may be written to stderr: progress bars, and in programs that import transformers before this package what
# torch says of a registration in torchao, where that is installed.
PROGRESS = r"[\w .:]*\d+%\|.*\|.*\d+/\d+ \[.*\]"
TORCHAO = r"W\d{4} .*\btorch/utils/_pytree\.py:\d+\] .*register_constant\(\).*"
ALLOWED = {"program": [PROGRESS, TORCHAO], "command": [PROGRESS]}
# What tests/conftest.py sets and users do not.
OURS = ("TOKENIZERS_PARALLELISM", "HF_HUB_DISABLE_TELEMETRY", "TORCH_LOGS")


def unforeseen(stderr: str, kind: str) -> list[str]:
    """Lines of stderr that are not allowed."""
    lines = [line.strip() for line in re.split(r"[\r\n]", stderr)]
    return [line for line in lines if line and not any(re.fullmatch(form, line) for form in ALLOWED[kind])]


def run(arguments: list, folder: Path, kind: str, stdin: str = "") -> None:
    """Runs Python quietly: a warning of what will change is an error, and nothing else is written to stderr."""
    environment = {key: value for key, value in os.environ.items() if key not in OURS}
    environment |= {"PYTHONWARNINGS": "error::FutureWarning"}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=folder, env=environment, input=stdin, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert unforeseen(done.stderr, kind) == []


@pytest.mark.parametrize("word", ["pipeline(", "AutoProcessor"])
def test_programs(word, tmp_path, pictures):
    (program,) = [block for block in blocks("python")[:2] if word in block]
    run(["-c", f"MODEL, IMAGES = {str(assemble())!r}, {pictures!r}\n{program}"], tmp_path, "program")


def test_commands(tmp_path, pictures):
    def unimur(*arguments, stdin=""):
        run(["-m", "modeling_unimur.cli.main", *arguments], tmp_path, "command", stdin)

    model = ["--model", assemble()]
    (tmp_path / "texts.jsonl").write_text('{"text": "a cat"}\n{"text": "a truck"}\n', encoding="utf-8")
    unimur("demo", *model, "--images", Path(pictures[0]).parent)
    unimur("chat", *model, stdin="hello\n/quit\n")
    unimur("index", "build", "texts.jsonl", *model, "--index", "texts.index")
    unimur("index", "search", "it purrs", *model, "--index", "texts.index")


@pytest.mark.parametrize(
    ("line", "allowed"),
    [
        ("Loading weights: 100%|██████████| 784/784 [00:00<00:00, 28992.03it/s]", {"program", "command"}),
        ("  0%|          | 0/25 [00:00<?, ?it/s]", {"program", "command"}),
        (
            "W1128 04:57:00.648000 9 lib/torch/utils/_pytree.py:630] <enum 'KernelPreference'> is an Enum subclass. "
            "Calling register_constant() on Enum subclasses is deprecated.",
            {"program"},
        ),
        ("module.py:1794: FutureWarning: `past_key_values` is deprecated", set()),
        ("[transformers] BertModel LOAD REPORT from: minilm", set()),
        ("pooler.dense.weight | UNEXPECTED |  | ", set()),
    ],
)
def test_what_is_allowed(line, allowed):
    assert {kind for kind in ALLOWED if not unforeseen(f"\r{line}\n", kind)} == allowed
