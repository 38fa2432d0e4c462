"""Uploads a finished folder to the Hub in one commit with a tag; retries while the server is busy."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

logger = logging.getLogger(__name__)

_BUSY = (408, 429, 500, 502, 503, 504)
_ATTEMPTS = 5
_LONGEST_WAIT = 60.0
_Answer = TypeVar("_Answer")


def _patiently(call: Callable[[], _Answer], what: str) -> _Answer:
    """Calls the Hub and retries while it is busy. Raises OSError, with what was tried and the remedy, if it
    refuses."""
    for attempt in range(_ATTEMPTS):
        try:
            return call()
        except HfHubHTTPError as error:
            status = error.response.status_code if error.response is not None else None
            if status in _BUSY and attempt + 1 < _ATTEMPTS:
                wait = min(_retry_after(error) or 2.0**attempt, _LONGEST_WAIT)
                logger.warning("The Hub answers %s to %s; again in %.0f s.", status, what, wait)
                time.sleep(wait)
                continue
            raise OSError(f"The Hub refused {what} ({status}): {_remedy(status)}") from error
    raise AssertionError("unreachable")


def _retry_after(error: HfHubHTTPError) -> float | None:
    try:
        return float(error.response.headers.get("Retry-After"))
    except (TypeError, ValueError):
        return None


def _remedy(status: int | None) -> str:
    if status in (401, 403):
        return "log in with a token that may write there (`hf auth login`, or HF_TOKEN)."
    if status == 404:
        return "check the name of the repository, and that the token may see it."
    if status == 409:
        return "it is there already."
    if status in _BUSY:
        return f"it stayed busy over {_ATTEMPTS} attempts; nothing is half released: try again later."
    return "see --debug."


def require_free_tag(repo_id: str, tag: str) -> None:
    """Raises ValueError for a tag that the repository already has, since releases are never moved, and OSError where
    the Hub refuses to say."""
    api = HfApi()
    if not _patiently(lambda: api.repo_exists(repo_id), f"to look for {repo_id}"):
        return
    refs = _patiently(lambda: api.list_repo_refs(repo_id), f"to list the tags of {repo_id}")
    if tag in {ref.name for ref in refs.tags}:
        raise ValueError(f"{repo_id} has a tag {tag} already, and a release does not move: choose another --tag.")


def upload(folder: Path, repo_id: str, *, private: bool = False, tag: str | None = None) -> str:
    """Replaces the files of a repository, which is made where it is not there, by those of a folder in one commit,
    tags it, and returns the commit's address.

    Raises:
        OSError: the Hub refuses, or stays busy; the repository then is as it was.
    """
    api = HfApi()
    _patiently(lambda: api.create_repo(repo_id, private=private, exist_ok=True), f"to create {repo_id}")
    message = f"Release {tag}" if tag else "Release"
    commit = _patiently(
        lambda: api.upload_folder(
            repo_id=repo_id, folder_path=str(folder), commit_message=message, delete_patterns="*"
        ),
        f"the upload to {repo_id}",
    )
    if tag:
        _patiently(lambda: api.create_tag(repo_id, tag=tag, revision=commit.oid), f"the tag {tag} of {repo_id}")
    return str(commit.commit_url)
