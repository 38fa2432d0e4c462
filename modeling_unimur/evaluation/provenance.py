"""Provenance of results: revisions of model and data, package versions, and the machine."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
from collections.abc import Iterable
from pathlib import Path

import torch

_PACKAGES = (
    "unimur", "torch", "transformers", "tokenizers", "numpy", "pillow", "open_clip_torch", "timm", "bm25s",
    "sentence-transformers",
)  # fmt: skip


def files_digest(paths: Iterable[str | os.PathLike]) -> str:
    """Returns sixteen hexadecimal digits that change with the content of any file, or with their order.

    Raises:
        FileNotFoundError: a file is not there.
    """
    digest = hashlib.sha256()
    for path in paths:
        content = hashlib.sha256()
        with open(path, "rb") as file:
            while block := file.read(2**22):
                content.update(block)
        digest.update(content.digest())
    return digest.hexdigest()[:16]


def data_record(path: str, split: str, files: Iterable[str | os.PathLike], limit: int | None, **counts: int) -> dict:
    """Returns what identifies the data of a task: path, split, a digest of the files and the limit, and counts."""
    return {"path": path, "split": split, "digest": limited(files_digest(files), limit), **counts}


def limited(digest: str, limit: int | None) -> str:
    """Returns the digest of a whole set as that of its first `limit` items."""
    return f"{digest}-{limit}" if limit else digest


def model_revision(source: str | os.PathLike, model=None) -> str:
    """Returns the revision of a model: the commit of a Hub id, which the loaded model's configuration knows, or
    `sha256:` and the digest of a folder's configuration and weights.

    Raises:
        FileNotFoundError: a folder without weights.
    """
    folder = Path(source).expanduser()
    if not folder.is_dir():
        commit = getattr(getattr(model, "config", None), "_commit_hash", None)
        return commit or "unknown"
    # sentence-transformers may keep the weights in a folder of their own.
    weights = sorted(folder.glob("*.safetensors")) or sorted(folder.rglob("*.safetensors"))
    if not weights:
        raise FileNotFoundError(f"{folder} contains no weights (*.safetensors).")
    return f"sha256:{files_digest([*sorted(folder.glob('*.json')), *weights])}"


def package_versions() -> dict[str, str]:
    """Returns the versions of Python and of the installed packages that a figure may depend on."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def this_machine() -> dict[str, object]:
    """Returns the processor or accelerator, the number of threads and the system."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    return {"device": device, "cores": os.cpu_count(), "threads": torch.get_num_threads(), "system": platform.system()}
