"""The version of a small release: a hash of its committed files and of the code that it carries."""

from __future__ import annotations

import hashlib
from pathlib import Path

from conversion.assemble_clip_lite2_minilm import PROJECTION, ROOT
from modeling_unimur.releasing.clean_folder import SENTENCE_TRANSFORMERS_MODULE

_CODE = (*sorted((ROOT / "modeling_unimur").glob("*.py")), SENTENCE_TRANSFORMERS_MODULE)


def release_version(*files: Path) -> str:
    """Changes with these files, the dual encoder's projection and the remote code; 12 hexadecimal digits."""
    digest = hashlib.sha256()
    for path in (*files, PROJECTION, *_CODE):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
