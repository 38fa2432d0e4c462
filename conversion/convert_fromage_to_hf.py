"""Converts pruned checkpoints of FROMAGe and UniMuR to heads-only releases of UniMuR.

    python conversion/convert_fromage_to_hf.py fromage_model/ fromage-opt-6.7b-heads
    python conversion/convert_fromage_to_hf.py fromage_model/ OUT --language-model opt-6.7b/ \\
        --language-model-base facebook/opt-6.7b --language-model-base-revision <commit>

The checkpoint folder holds `pretrained_ckpt.pth.tar` and `model_args.json`, as the authors publish them
(github.com/kohjingyu/fromage, and its variant with four visual tokens). UniMuR's code was not published: its
checkpoint is read under FROMAGe's names, with targets as CLIP projects them where `visual_fc` is absent.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

from transformers import PreTrainedConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from conversion.heads_plan import HeadsPlan, plan_heads, require_arguments
from conversion.heads_release import release_heads, run_command
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


def read_heads(
    ledger: KeyLedger, arguments: dict, text_config: PreTrainedConfig, clip_config: PreTrainedConfig
) -> HeadsPlan:
    """Plans the conversion of a checkpoint; `ledger` accounts for each of its tensors. Candidate images go through
    `visual_fc` where the file has one.

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
    prompt, notes = arguments.get("input_prompt"), list(_NOTES)
    rows = min(arguments["retrieval_token_idx"], text_config.vocab_size)
    if prompt:
        notes.append(f"Captions were prompted with {prompt!r} after the image.")
    if _ROW in ledger:
        ledger.drop_all(_TABLE, f"frozen rows of the language model; that of [RET] is {_ROW}")
    return plan_heads(
        ledger,
        text_config,
        clip_config,
        dim=arguments["shared_emb_dim"],
        visual_tokens=arguments["n_visual_tokens"],
        layers=arguments["text_emb_layers"],
        text_fc="model.text_hidden_fcs.{}.0",
        ret_rows=_ROW if _ROW in ledger else _TABLE,
        ret_token="[RET]",
        ret_token_ids=[arguments["retrieval_token_idx"]],
        mapped="model.visual_fc.weight" in ledger,
        ret_token_loss_weight=1.0,  # its next-token loss over caption and [RET]
        # Its vocabulary is what stands before [RET], and [RET] in both softmaxes.
        config={"ret_in_caption_loss": True, "loss_vocab_size": rows},
        processor={"caption_ends": False, "start_each_caption": True, "squash_images": True},
        notes=notes,
    )


convert = functools.partial(release_heads, read=read_heads, name="FROMAGe's heads")
main = functools.partial(run_command, __doc__, convert)


if __name__ == "__main__":
    main()
