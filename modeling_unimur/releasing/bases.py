"""The frozen backbones that a heads-only release names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

PARTS = {"text": "language model", "clip": "dual encoder"}
# What the command line calls their ids and commits.
FLAGS = {"text": "--language-model-base", "clip": "--clip-base"}


@dataclass(frozen=True)
class Base:
    """A frozen backbone on the Hub.

    Args:
        model: its id.
        revision: its commit, 40 hexadecimal digits; a branch moves, and the heads fit one commit.

    Raises:
        ValueError: the id is a local path or malformed, or the revision is no commit.
    """

    model: str
    revision: str

    def __post_init__(self):
        is_local = Path(self.model).exists()
        try:
            validate_repo_id(self.model)
        except HFValidationError:
            is_local = True
        if is_local:
            raise ValueError(
                f"The backbone {self.model!r} is a local path, which nobody else has: name what it is a copy of with "
                "ID@COMMIT, or release it inside (--full)."
            )
        if not re.fullmatch(r"[0-9a-f]{40}", self.revision or ""):
            raise ValueError(f"{self.revision!r} is no commit: 40 hexadecimal digits, as the Hub shows them.")

    @classmethod
    def parse(cls, text: str) -> Base:
        """`ID@COMMIT` as a base. Raises ValueError for something else."""
        model, at, revision = text.partition("@")
        if not at:
            raise ValueError(f"{text!r} names no commit: write ID@COMMIT, 40 hexadecimal digits after the @.")
        return cls(model, revision)
