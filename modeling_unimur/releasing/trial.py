"""Tries a release in a fresh process without this package."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file

_SCRIPT = Path(__file__).with_name("fresh_load.py")
_TOLERANCE = 1e-4  # the same code on the same machine, in another process
_SECONDS = 1800


def try_release(
    folder: Path, expected: dict[str, torch.Tensor] | None = None, backbones: dict[str, str] | None = None
) -> dict:
    """Loads a release in a process without this package, by AutoModel, AutoProcessor, `pipeline` and
    SentenceTransformer (where that is installed), and compares what they compute.

    Args:
        expected: embeddings that it has to give, as `fresh_load.embeddings` computes them.
        backbones: `language_model` and `clip`, folders or Hub ids in place of those that a heads-only release names.

    Returns:
        `{"roads": [...], "width": int, "parameters": int}`.

    Raises:
        ValueError: it does not load, or computes something else.
    """
    given = [str((backbones or {}).get(name, "")) for name in ("language_model", "clip")]
    with tempfile.TemporaryDirectory() as work:
        output = Path(work, "embeddings.safetensors")
        environment = {**os.environ, "HF_MODULES_CACHE": str(Path(work, "modules")), "PYTHONNOUSERSITE": "1"}
        # As text, since the folder of a script is searched for modules.
        script = _SCRIPT.read_text(encoding="utf-8")
        command = [sys.executable, "-c", script, str(folder.resolve()), str(output), *given]
        done = subprocess.run(
            command, env=environment, cwd=work, capture_output=True, text=True, check=False, timeout=_SECONDS
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise ValueError(f"{folder} does not work in a fresh process: {last}")
        found = load_file(output)
    for key, value in (expected or {}).items():
        if key not in found or not torch.allclose(found[key], value, atol=_TOLERANCE):
            raise ValueError(f"{folder} computes other embeddings ({key}) in a fresh process than here.")
    for key, value in found.items():
        if not bool(value.isfinite().all()):
            raise ValueError(f"{folder} computes no numbers ({key}).")
    return json.loads(done.stdout.strip().splitlines()[-1])
