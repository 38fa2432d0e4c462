"""The cache that huggingface_hub keeps of repositories, filled without a hub."""

import hashlib
import shutil
from pathlib import Path


def publish(cache: Path, repo_id: str, folder: Path, revision: str, branch: str = "main") -> None:
    """Puts a folder into a cache as one commit of a repository, and moves a branch to it.

    Args:
        cache: what `HF_HUB_CACHE` or `cache_dir` names.
        repo_id: `owner/name`.
        folder: the files.
        revision: the commit, 40 hexadecimal digits.
        branch: the branch.
    """
    repo = cache / f"models--{repo_id.replace('/', '--')}"
    (repo / "refs").mkdir(parents=True, exist_ok=True)
    (repo / "refs" / branch).write_text(revision, encoding="utf-8")
    for file in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
        blob = repo / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
        blob.parent.mkdir(exist_ok=True)
        shutil.copy(file, blob)
        link = repo / "snapshots" / revision / file.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(blob)
