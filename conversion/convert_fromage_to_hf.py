"""Converts pruned checkpoints of FROMAGe and UniMuR to heads-only releases of UniMuR.

    python conversion/convert_fromage_to_hf.py fromage_model/ fromage-opt-6.7b-heads
    python conversion/convert_fromage_to_hf.py fromage_model/ OUT --verify heads      # without the 6.7B weights
    python conversion/convert_fromage_to_hf.py fromage_model/ OUT --language-model opt-6.7b/ \\
        --language-model-base facebook/opt-6.7b --language-model-base-revision <commit>

The checkpoint folder holds `pretrained_ckpt.pth.tar` and `model_args.json`, as the authors publish them
(github.com/kohjingyu/fromage, and its variant with four visual tokens). UniMuR's code was not published: its
checkpoint is read under FROMAGe's names, with targets as CLIP projects them where `visual_fc` is absent.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import torch
from transformers import PreTrainedConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from conversion.heads_plan import HeadsPlan, plan_heads, require_arguments
from conversion.heads_release import Backbone, heads_parser, release_heads, shared_arguments
from conversion.state_dicts import KeyLedger

_TABLE, _ROW = "model.input_embeddings.weight", "ret_input_embeddings.weight"
_REQUIRED = {"n_visual_tokens": int, "shared_emb_dim": int, "text_emb_layers": list, "retrieval_token_idx": int}
# Switches of older versions of FROMAGe under which other numbers come out.
_REFUSED = {
    "use_image_embed_norm": True,
    "use_text_embed_layernorm": True,
    "use_pooler": False,
    "freeze_lm": False,
    "freeze_vm": False,
}
_NOTES = (
    "Converted from a checkpoint in FROMAGe's format (Koh et al., Grounding Language Models to Images for Multimodal "
    "Inputs and Outputs, ICML 2023).",
    "[RET] is always the position that is read. FROMAGe's `generate_for_images_and_texts(num_words=0)` reads one that "
    "is too early by the number of input vectors of the images before it; its evaluation scripts read [RET].",
    "Images are resized to a square whatever their shape, as in FROMAGe's evaluations (`squash_images`).",
)


def convert(
    checkpoint: str | os.PathLike,
    output_dir: str | os.PathLike,
    language_model: Backbone,
    clip: Backbone,
    *,
    image_targets: str = "auto",
    **release_arguments,
) -> Path:
    """Converts a checkpoint folder; the release is compared with the source's formulas before it gets its name.

    Args:
        checkpoint: folder with `pretrained_ckpt.pth.tar` and `model_args.json`.
        output_dir: folder to make.
        language_model, clip: the frozen backbones.
        image_targets: `"mapped"` (candidate images go through `visual_fc`, as in FROMAGe), `"plain"` (CLIP's own
            projection; a `visual_fc` is left out), or `"auto"`: mapped where the file has a `visual_fc`.
        release_arguments: `licence`, `verify`, `dtype`, `hub_arguments` of `release_heads`.

    Returns:
        The folder, for `AutoModel.from_pretrained(folder, trust_remote_code=True)`.

    Raises:
        FileExistsError, FileNotFoundError, ValueError, OSError: as `release_heads` says.
    """
    if image_targets not in ("auto", "mapped", "plain"):
        raise ValueError(f"image_targets is 'auto', 'mapped' or 'plain', not {image_targets!r}.")

    def read(ledger: KeyLedger, arguments: dict, text: PreTrainedConfig, dual: PreTrainedConfig) -> HeadsPlan:
        return read_heads(ledger, arguments, text, dual, image_targets)

    title = f"FROMAGe's heads on {Path(str(language_model.source)).name}"
    return release_heads(checkpoint, output_dir, read, language_model, clip, title=title, **release_arguments)


def read_heads(
    ledger: KeyLedger,
    arguments: dict,
    text_config: PreTrainedConfig,
    clip_config: PreTrainedConfig,
    image_targets: str = "auto",
) -> HeadsPlan:
    """Plans the conversion of a checkpoint; `ledger` accounts for each of its tensors.

    Args:
        arguments: its `model_args.json`.
        text_config, clip_config: configurations of the language model and of CLIP.

    Raises:
        ValueError: an argument or a tensor is missing, of another shape, or changes numbers in a way that
            `UniMuRModel` cannot.
    """
    require_arguments(arguments, _REQUIRED)
    for name, refused in _REFUSED.items():
        if arguments.get(name, not refused) is refused:
            raise ValueError(f"model_args.json says {name}={refused}, which UniMuRModel does not compute.")
    mapped = "model.visual_fc.weight" in ledger if image_targets == "auto" else image_targets == "mapped"
    prompt, notes = arguments.get("input_prompt"), list(_NOTES)
    rows = min(arguments["retrieval_token_idx"], text_config.vocab_size)
    if prompt:
        notes.append(f"Captions were prompted with {prompt!r} after the image.")
    return plan_heads(
        ledger,
        text_config,
        clip_config,
        dim=arguments["shared_emb_dim"],
        visual_tokens=arguments["n_visual_tokens"],
        layers=arguments["text_emb_layers"],
        text_fc="model.text_hidden_fcs.{}.0",
        ret_row=lambda width: _ret_row(ledger, width, arguments["retrieval_token_idx"]),
        ret_token="[RET]",
        ret_token_id=arguments["retrieval_token_idx"],
        mapped=mapped,
        ret_token_loss_weight=1.0,  # its next-token loss over caption and [RET]
        # Its vocabulary is what stands before [RET], and [RET] in both softmaxes.
        config={"ret_in_caption_loss": True, "loss_vocab_size": rows},
        processor={"caption_ends": False, "start_each_caption": True, "squash_images": True},
        notes=notes,
    )


def _ret_row(ledger: KeyLedger, width: int, token: int) -> torch.Tensor:
    """The vector of [RET] `(1, width)`: on its own as `[1, d]` or `[d]`, or in a table of all rows."""
    row = None
    if _ROW in ledger:
        row = ledger.take(_ROW, "heads.ret_embedding", (1, width), (width,))
    if _TABLE not in ledger:
        if row is None:
            raise ValueError(f"{ledger.source} lacks the vector of [RET]: neither {_ROW} nor {_TABLE} is there.")
        return row
    rows = len(ledger.peek(_TABLE))
    if rows <= token:
        raise ValueError(f"{ledger.source}: {_TABLE} has {rows} rows, and [RET] is token {token}.")
    if row is None:
        return ledger.take(_TABLE, f"heads.ret_embedding (row {token})", (rows, width))[token : token + 1].clone()
    table = ledger.peek(_TABLE)
    if table.shape[1] != width or not torch.equal(table[token].to(row), row[0]):
        raise ValueError(f"{ledger.source}: row {token} of {_TABLE} is another vector than {_ROW}.")
    ledger.drop(_TABLE, f"frozen rows of the language model; row {token} is {_ROW}")
    return row


def main() -> None:
    """Command line of the conversion."""
    parser = heads_parser(__doc__)
    parser.add_argument(
        "--image-targets",
        choices=("auto", "mapped", "plain"),
        default="auto",
        help="whether candidate images go through visual_fc (default: where the file has one)",
    )
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    print(convert(args.checkpoint, args.output, image_targets=args.image_targets, **shared_arguments(args)))


if __name__ == "__main__":
    main()
