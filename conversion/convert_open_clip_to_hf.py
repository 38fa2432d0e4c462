"""Converts open_clip models to transformers' `CLIPModel` and back, where both compute the same.

    python conversion/convert_open_clip_to_hf.py open_clip_folder/ clip-folder
    python conversion/convert_open_clip_to_hf.py ViT-B-32 clip-folder --checkpoint epoch_32.pt
    python conversion/convert_open_clip_to_hf.py --to-open-clip clip-folder/ open_clip_folder

An open_clip folder holds `open_clip_config.json` and the weights, as on the Hub; `open_clip.create_model(
"local-dir:<folder>")` reads the one that is written. CLIPs with a vision transformer fit, with QuickGELU or GELU. What
does not fit stops with its name and value: towers of timm (SigLIP, EVA, MobileCLIP, ConvNeXt) and of transformers,
ResNets, CoCa, CLIPA's pooling, texts that are read in both directions. `OpenCLIPModel.from_open_clip` wraps those.
Names of architectures and OpenAI's tokenizer come from open_clip (`pip install unimur[open_clip]`).
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from conversion.clip_folder import (
    OPENAI_VOCABULARY,
    import_open_clip,
    preprocess_config,
    read_clip_model,
    write_clip_folder,
)
from conversion.clip_layout import to_hf, to_openai
from conversion.open_clip_configs import clip_config, open_clip_config
from conversion.state_dicts import KeyLedger, new_target, read_tensors
from modeling_unimur.data.cache import build_once

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
# The names of weights in an open_clip folder, by open_clip's own preference.
_WEIGHT_FILES = (
    WEIGHTS,
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
)
_NOTE = "A model of open_clip as transformers' `CLIPModel`, in float32."


def read_source(
    source: str | os.PathLike, checkpoint: str | os.PathLike | None = None
) -> tuple[dict, dict, dict[str, torch.Tensor], str]:
    """Model configuration, preprocessing and weights of an open_clip model, and where the weights came from.

    Args:
        source: a folder with `open_clip_config.json`, or the name of one of open_clip's configurations.
        checkpoint: the weights, with a name; in a folder they are found.

    Raises:
        FileNotFoundError, ValueError: a part is missing or damaged, or the name is none of open_clip's.
    """
    folder = Path(source)
    if folder.is_dir():
        about = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if "model_cfg" not in about:
            raise ValueError(f"{folder / CONFIG} has no model_cfg.")
        found = [folder / name for name in _WEIGHT_FILES if (folder / name).is_file()]
        if checkpoint is None and not found:
            raise FileNotFoundError(f"{folder} holds no weights: none of {', '.join(_WEIGHT_FILES)}.")
        file, preprocess = Path(checkpoint or found[0]), about.get("preprocess_cfg", {})
        model_cfg = about["model_cfg"]
    else:
        model_cfg, preprocess = import_open_clip().get_model_config(str(source)), {}
        if model_cfg is None:
            raise ValueError(f"{source} is neither a folder nor a configuration of open_clip.")
        if checkpoint is None:
            raise ValueError(f"{source} names an architecture: pass its weights as --checkpoint.")
        file = Path(checkpoint)
    return model_cfg, preprocess, read_tensors(file), str(file)


def convert(
    source: str | os.PathLike,
    output_dir: str | os.PathLike,
    *,
    checkpoint: str | os.PathLike | None = None,
    tokenizer: str | os.PathLike | None = None,
    licence: str = "mit",
) -> Path:
    """Converts an open_clip model to a `CLIPModel` folder.

    Args:
        source, checkpoint: as in `read_source`.
        output_dir: folder to make; it is returned.
        tokenizer: Hub id or folder of the tokenizer, for a vocabulary other than OpenAI's; an open_clip folder with
            tokenizer files is its own.
        licence: of the weights, for the card.

    Raises:
        FileExistsError: the folder exists.
        FileNotFoundError, ValueError: a part cannot be read, the architecture does not fit, or a tensor is missing,
            unknown or of another shape.
        ImportError: open_clip, which brings OpenAI's tokenizer and its own architectures, is not installed.
    """
    target = new_target(output_dir)
    model_cfg, preprocess, source_tensors, origin = read_source(source, checkpoint)
    config = clip_config(model_cfg)
    # A model with a text tower of its own has its tensors under `text.`, and is otherwise the same.
    ledger = KeyLedger({key.removeprefix("text."): value for key, value in source_tensors.items()}, origin)
    tensors = to_hf(ledger, config)
    if tokenizer is None and (Path(source) / "tokenizer_config.json").is_file():
        tokenizer = source
    return write_clip_folder(
        target, config, tensors, tokenizer=tokenizer, preprocess=preprocess, licence=licence, note=_NOTE
    )


def convert_back(folder: str | os.PathLike, output_dir: str | os.PathLike) -> Path:
    """Converts a `CLIPModel` folder, or a Hub id, to an open_clip folder, and returns it, for
    `open_clip.create_model("local-dir:<folder>")`.

    Raises:
        FileExistsError: the folder exists.
        ValueError: the model is another one, or computes what open_clip has no configuration for.
    """
    target = new_target(output_dir)
    model = read_clip_model(folder)
    model_cfg = open_clip_config(model.config)
    ledger = KeyLedger(model.state_dict(), str(folder))
    tensors = to_openai(ledger, model.config)
    words = None
    if model_cfg["text_cfg"]["vocab_size"] != OPENAI_VOCABULARY:
        words = AutoTokenizer.from_pretrained(folder)
        model_cfg["text_cfg"]["hf_tokenizer_name"] = target.name  # of a local folder, open_clip takes its own files

    def build(aside: Path) -> None:
        save_file(tensors, aside / WEIGHTS, metadata={"format": "pt"})
        about = {"model_cfg": model_cfg, "preprocess_cfg": preprocess_config(folder)}
        (aside / CONFIG).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        if words is not None:
            words.save_pretrained(aside)

    return build_once(target, build)


def main() -> None:
    """Command line of the conversion."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="open_clip folder or architecture; with --to-open-clip a CLIPModel")
    parser.add_argument("output", help="folder to make")
    parser.add_argument("--to-open-clip", action="store_true", help="the other way: from CLIPModel to open_clip")
    parser.add_argument("--checkpoint", help="weights, where the source is the name of an architecture")
    parser.add_argument("--tokenizer", help="Hub id or folder, where the vocabulary is not OpenAI's")
    parser.add_argument("--licence", default="mit", help="of the weights, for the card (default: %(default)s)")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if args.to_open_clip:
        print(convert_back(args.source, args.output))
    else:
        chosen = {"checkpoint": args.checkpoint, "tokenizer": args.tokenizer, "licence": args.licence}
        print(convert(args.source, args.output, **chosen))


if __name__ == "__main__":
    main()
