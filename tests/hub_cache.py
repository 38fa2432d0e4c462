"""The cache that huggingface_hub keeps of repositories, filled without a hub."""

import os
import shutil
from pathlib import Path

from tests.hub_server import File


def publish(
    cache: Path, repo_id: str, folder: Path, revision: str, branch: str = "main", shared: bool = False
) -> None:
    """Puts a folder into a cache as one commit of a repository, and moves a branch to it.

    Args:
        cache: what `HF_HUB_CACHE` or `cache_dir` names.
        repo_id: `owner/name`.
        folder: the files.
        revision: the commit, 40 hexadecimal digits.
        branch: the branch.
        shared: keeps the content of weights in one store for all repositories, as huggingface_hub does from 1.32 on
            with files that it downloads by Xet.
    """
    repo = cache / f"models--{repo_id.replace('/', '--')}"
    (repo / "refs").mkdir(parents=True, exist_ok=True)
    (repo / "refs" / branch).write_text(revision, encoding="utf-8")
    for path in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
        file = File(path.read_bytes(), lfs=path.suffix == ".safetensors")
        blob = repo / "blobs" / (file.sha256 if file.lfs else file.oid)
        blob.parent.mkdir(exist_ok=True)
        blob.unlink(missing_ok=True)
        if shared and file.lfs:
            store = cache / "blobs" / file.xet_hash[:2] / file.xet_hash
            store.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, store)
            _link(blob, store)
        else:
            shutil.copy(path, blob)
        _link(repo / "snapshots" / revision / path.relative_to(folder), blob)


def _link(link: Path, target: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(os.path.relpath(target, link.parent))
