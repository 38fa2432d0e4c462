"""Converts the retrieval part of a GILL checkpoint to a heads-only release of UniMuR.

    python conversion/convert_gill_to_hf.py checkpoints/gill_opt/ gill-opt-6.7b-retrieval

The checkpoint folder holds `pretrained_ckpt.pth.tar` and `model_args.json` (github.com/kohjingyu/gill). GILL appends
eight tokens, [IMG0] to [IMG7], and its retrieval map keeps the first one's output; the language model reads from left
to right, so that [IMG0] alone gives the same vector. What makes images is left out: the vectors of [IMG1] to [IMG7],
the mapper to Stable Diffusion, and the classifier that decides between both.
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

_REQUIRED = {
    "n_visual_tokens": int,
    "ret_emb_dim": int,
    "text_emb_layers": list,
    "num_tokens": int,
    "retrieval_token_idx": list,
}
_NOTES = (
    "The retrieval part of a GILL checkpoint (Koh et al., Generating Images with Multimodal Language Models, NeurIPS "
    "2023). Left out: the vectors of [IMG1] to [IMG7], the mapper to Stable Diffusion, the decision classifier.",
)


def read_heads(
    ledger: KeyLedger, arguments: dict, text_config: PreTrainedConfig, clip_config: PreTrainedConfig
) -> HeadsPlan:
    """Plans the conversion of a checkpoint, as `convert_fromage_to_hf.read_heads` does."""
    require_arguments(arguments, _REQUIRED)
    if arguments.get("ret_text_fc_mode", "linear") != "linear":
        raise ValueError(f"ret_text_fc_mode={arguments['ret_text_fc_mode']!r}: only the linear retrieval map fits.")
    if arguments.get("norm_image_embed", "none") != "none":
        raise ValueError(f"norm_image_embed={arguments['norm_image_embed']!r} changes the candidates; only none fits.")
    tokens, ids = arguments["num_tokens"], arguments["retrieval_token_idx"]
    if len(ids) != tokens or not ids:
        raise ValueError(f"{tokens} tokens (num_tokens) and the ids {ids} (retrieval_token_idx) do not agree.")
    ledger.drop_all("model.gen_text_hidden_fcs.", "maps to Stable Diffusion")
    return plan_heads(
        ledger,
        text_config,
        clip_config,
        dim=arguments["ret_emb_dim"],
        visual_tokens=arguments["n_visual_tokens"],
        layers=arguments["text_emb_layers"],
        text_fc="model.ret_text_hidden_fcs.{}.model",
        ret_rows="model.input_embeddings.weight",
        ret_token="[IMG0]",
        ret_token_ids=ids,
        ret_token_loss_weight=0.5,  # GILL's weight of the next-token loss in retrieval
        notes=list(_NOTES),
    )


convert = functools.partial(release_heads, read=read_heads, name="GILL's retrieval heads")
main = functools.partial(run_command, __doc__, convert)


if __name__ == "__main__":
    main()
