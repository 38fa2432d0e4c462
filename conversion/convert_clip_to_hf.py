"""CLIP state dicts under OpenAI's names (UniVL-DR's `model.best.pt`, `clip.load(...).state_dict()`) and `CLIPModel`.

    python conversion/convert_clip_to_hf.py model.best.pt univl-dr-clip
    python conversion/convert_clip_to_hf.py --to-openai univl-dr-clip model.best.pt --half

There and back: the first writes a Hugging Face folder with tokenizer and image processor, the second the state dict
again, as safetensors or, where the file is called `.pt`, as `torch.load(...)["model"]`, which UniVL-DR's scripts read.
Vision transformers only; OpenAI's ResNets have no place in `CLIPModel`. OpenAI's tokenizer is made from the vocabulary
in open_clip (`pip install unimur[open_clip]`).
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import CLIPConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from conversion.clip_folder import read_clip_model, write_clip_folder
from conversion.clip_layout import half_as_openai, to_hf, to_openai
from conversion.open_clip_configs import clip_config, open_clip_config
from conversion.state_dicts import KeyLedger, new_target, read_tensors

HEAD_WIDTH = 64  # of every CLIP of OpenAI's, whose code divides the width by it
_CONSTANTS = ("input_resolution", "context_length", "vocab_size")
_NOTE = "A CLIP state dict under OpenAI's names, as transformers' `CLIPModel`, in float32."


def openai_config(ledger: KeyLedger, activation: str = "quick_gelu", head_width: int = HEAD_WIDTH) -> CLIPConfig:
    """Infers the configuration from the shapes of a state dict's tensors.

    Args:
        ledger: the state dict.
        activation: `quick_gelu`, which OpenAI's code computes, or `gelu`; a state dict does not show it.
        head_width: width of an attention head, which it does not show either.

    Raises:
        ValueError: the vision tower is no vision transformer, a tensor is missing, or the sizes do not agree.
    """
    if "visual.layer1.0.conv1.weight" in ledger:
        raise ValueError(
            f"{ledger.source} has a ResNet, for which CLIPModel has no place; keep it in open_clip, behind "
            "OpenCLIPModel.from_open_clip."
        )

    def shape(key: str) -> tuple[int, ...]:
        return tuple(ledger.peek(key).shape)

    def layers(prefix: str) -> int:
        return len([key for key in ledger.keys() if key.startswith(prefix) and key.endswith("attn.in_proj_weight")])  # noqa: SIM118

    vision_width, _, patch, _ = shape("visual.conv1.weight")
    context, width = shape("positional_embedding")
    places = shape("visual.positional_embedding")[0] - 1
    grid = round(places**0.5)
    if grid**2 != places:
        raise ValueError(f"{ledger.source}: {places} patches make no square.")
    for name, found in (("text", width), ("vision", vision_width)):
        if found % head_width:
            raise ValueError(f"{ledger.source}: the {name} width {found} is no multiple of {head_width} (head width).")
    return clip_config(
        {
            "embed_dim": shape("text_projection")[1],
            "quick_gelu": activation == "quick_gelu",
            "vision_cfg": {
                "image_size": grid * patch,
                "patch_size": patch,
                "width": vision_width,
                "head_width": head_width,
                "layers": layers("visual.transformer."),
                "mlp_ratio": shape("visual.transformer.resblocks.0.mlp.c_fc.weight")[0] / vision_width,
            },
            "text_cfg": {
                "context_length": context,
                "vocab_size": shape("token_embedding.weight")[0],
                "width": width,
                "heads": width // head_width,
                "layers": layers("transformer."),
                "mlp_ratio": shape("transformer.resblocks.0.mlp.c_fc.weight")[0] / width,
            },
        }
    )


def convert(
    checkpoint: str | os.PathLike,
    output_dir: str | os.PathLike,
    *,
    activation: str = "quick_gelu",
    head_width: int = HEAD_WIDTH,
    tokenizer: str | os.PathLike | None = None,
    licence: str = "mit",
) -> Path:
    """Converts a state dict in OpenAI's layout to a `CLIPModel` folder.

    Args:
        checkpoint: a state dict, alone or under `model` or `state_dict`; `.safetensors` or what `torch.save` wrote.
        output_dir: folder to make; it is returned.
        activation, head_width: as in `openai_config`.
        tokenizer: Hub id or folder of the tokenizer, for a vocabulary other than OpenAI's.
        licence: of the weights, for the card.

    Raises:
        FileExistsError: the folder exists.
        FileNotFoundError, ValueError: the checkpoint cannot be read, is another model, lacks a tensor, holds one that
            is not known.
        ImportError: open_clip, which brings OpenAI's tokenizer, is not installed.
    """
    target = new_target(output_dir)
    ledger = KeyLedger(read_tensors(checkpoint), str(checkpoint))
    config = openai_config(ledger, activation, head_width)
    for name in _CONSTANTS:
        if name in ledger:
            ledger.drop(name, "a constant that the shapes say too")
    tensors = to_hf(ledger, config)
    return write_clip_folder(target, config, tensors, tokenizer=tokenizer, licence=licence, note=_NOTE)


def convert_back(
    folder: str | os.PathLike,
    output: str | os.PathLike,
    *,
    activation: str = "quick_gelu",
    head_width: int = HEAD_WIDTH,
    half: bool = False,
) -> Path:
    """Converts a `CLIPModel` folder, or a Hub id, to one file in OpenAI's layout, and returns it.

    Args:
        output: file to write: `.safetensors`, or `.pt` for programs that read `torch.load(file)["model"]`.
        activation, head_width: what the reader of the file computes; OpenAI's code and UniVL-DR's: `quick_gelu`, 64.
        half: writes linear maps in float16 and the rest in float32, as OpenAI's `convert_weights` does.

    Raises:
        FileExistsError: the file exists.
        ValueError: the model is another one, or computes what the layout does not say.
    """
    target = new_target(output)
    if target.suffix not in (".safetensors", ".pt"):
        raise ValueError(f"{target.name}: a state dict is written as .safetensors or .pt.")
    model = read_clip_model(folder)
    text, vision = model.config.text_config, model.config.vision_config
    described = open_clip_config(model.config)
    if described["quick_gelu"] != (activation == "quick_gelu") or any("act_kwargs" in described[t] for t in _TOWERS):
        raise ValueError(f"{folder} computes {text.hidden_act}, and the reader of the file {activation}.")
    widths = {part.hidden_size // part.num_attention_heads for part in (text, vision)}
    if widths != {head_width} or any("norm_kwargs" in described[t] for t in _TOWERS):
        raise ValueError(f"{folder}: OpenAI's code has heads of {head_width} and an epsilon of 1e-5; these differ.")
    if "pool_type" in described["text_cfg"]:
        raise ValueError(f"{folder} ends texts with token {text.eos_token_id}; OpenAI's code, with the highest one.")
    ledger = KeyLedger(model.state_dict(), str(folder))
    tensors = to_openai(ledger, model.config)
    written = half_as_openai(tensors) if half else tensors
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as aside:
        file = Path(aside) / target.name
        if target.suffix == ".pt":
            torch.save({"epoch": 0, "model": written}, file)
        else:
            save_file(written, file, metadata={"format": "pt"})
        file.rename(target)
    return target


_TOWERS = ("vision_cfg", "text_cfg")


def main() -> None:
    """Command line of the conversion."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="state dict; with --to-openai a folder or Hub id of a CLIPModel")
    parser.add_argument("output", help="folder to make; with --to-openai a .safetensors or .pt file")
    parser.add_argument("--to-openai", action="store_true", help="the other way: from CLIPModel to OpenAI's layout")
    parser.add_argument(
        "--activation",
        choices=("quick_gelu", "gelu"),
        default="quick_gelu",
        help="what the state dict's own code computes (default: %(default)s, as OpenAI's does)",
    )
    parser.add_argument("--head-width", type=int, default=HEAD_WIDTH, help="of attention (default: %(default)s)")
    parser.add_argument("--tokenizer", help="Hub id or folder, where the vocabulary is not OpenAI's")
    parser.add_argument("--licence", default="mit", help="of the weights, for the card (default: %(default)s)")
    parser.add_argument("--half", action="store_true", help="with --to-openai: OpenAI's mixture of float16 and 32")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    common = {"activation": args.activation, "head_width": args.head_width}
    if args.to_openai:
        print(convert_back(args.source, args.output, half=args.half, **common))
    else:
        print(convert(args.source, args.output, tokenizer=args.tokenizer, licence=args.licence, **common))


if __name__ == "__main__":
    main()
