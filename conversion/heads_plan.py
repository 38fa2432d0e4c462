"""Plans how the tensors of a checkpoint of FROMAGe or a descendant become those of UniMuR."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from transformers import PreTrainedConfig

from conversion.state_dicts import KeyLedger

ARGUMENTS = "model_args.json"


@dataclass
class HeadsPlan:
    """The conversion of a checkpoint: tensors under the names of `UniMuRHeads`, arguments of `UniMuRConfig` (besides
    backbones and token ids) and of `UniMuRProcessor`, the id of [RET] in the source, and lines for the card."""

    heads: dict[str, torch.Tensor]
    config: dict
    processor: dict
    ret_token_id: int
    notes: list[str] = field(default_factory=list)


def require_arguments(arguments: dict, kinds: dict[str, type]) -> None:
    """Raises ValueError for the first argument that `model_args.json` lacks or has in another type."""
    for name, kind in kinds.items():
        value = arguments.get(name)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ValueError(f"{ARGUMENTS} needs {name}, of type {kind.__name__}; it has {value!r}.")


def plan_heads(
    ledger: KeyLedger,
    text_config: PreTrainedConfig,
    clip_config: PreTrainedConfig,
    *,
    dim: int,
    visual_tokens: int,
    layers: list[int],
    text_fc: str,
    ret_rows: str,
    ret_token: str,
    ret_token_ids: list[int],
    mapped: bool = True,
    ret_token_loss_weight: float,
    config: dict | None = None,
    processor: dict | None = None,
    notes: list[str],
) -> HeadsPlan:
    """Reads the tensors that FROMAGe and its descendants have in common, and leaves their frozen backbones out.

    Args:
        dim: width of the unified embedding.
        visual_tokens: input vectors that one image becomes.
        layers: indices of the hidden states that are read.
        text_fc: keys of their maps, with `{}` for the number of the map.
        ret_rows: key of the input vectors of [RET], or of all tokens.
        ret_token, ret_token_ids: the token that is read, and the ids of it and of those that the source appends too.
        mapped: whether candidate images go through `visual_fc`.
        ret_token_loss_weight: weight of the next-token loss that the source was trained with.
        config, processor: further arguments of `UniMuRConfig` and `UniMuRProcessor`, of this source alone.
        notes: lines for the card.

    Raises:
        ValueError: a tensor is missing or of another shape.
    """
    width = getattr(text_config, "word_embed_proj_dim", None) or text_config.hidden_size
    pooled, joint = clip_config.vision_config.hidden_size, clip_config.projection_dim
    if not mapped and dim != joint:
        raise ValueError(
            f"The text map ends in {dim} dimensions and CLIP's space has {joint}, so candidate images need a map "
            "(model.visual_fc) that this checkpoint lacks."
        )
    # Name in the model -> name in the source, rows, columns.
    maps = {"visual_map": ("model.visual_embeddings", width * visual_tokens, pooled)}
    maps |= {f"readout_maps.{number}": (text_fc.format(number), dim, width) for number in range(len(layers))}
    if mapped:
        maps["image_target_map"] = ("model.visual_fc", dim, pooled)
    heads = {}
    for name, (key, rows, columns) in maps.items():
        for part, shape in (("weight", (rows, columns)), ("bias", (rows,))):
            heads[f"{name}.{part}"] = ledger.take(f"{key}.{part}", f"heads.{name}.{part}", shape)
    heads["ret_embedding"] = _first_row(ledger, ret_rows, width, ret_token_ids)
    heads["logit_scale"] = ledger.take("model.logit_scale", "heads.logit_scale", (), (1,))
    for prefix in ("model.lm.", "model.visual_model."):
        ledger.drop_all(prefix, "frozen backbone, which the release names")
    return HeadsPlan(
        heads=heads,
        config={
            "projection_dim": dim if mapped else None,
            "map_image_targets": mapped,
            "map_text_targets": False,
            "num_visual_tokens": visual_tokens,
            "visual_feature": "pooled",
            "ret_layers": [-1 if layer == text_config.num_hidden_layers else layer for layer in layers],
            "textual_matching_weight": 0.0 if mapped else 1.0,
            "ret_token_loss_weight": ret_token_loss_weight,
            **(config or {}),
        },
        processor={
            "image_token": "<|image|>",
            "ret_token": ret_token,
            "num_visual_tokens": visual_tokens,
            "start_after_pictures": True,
            **(processor or {}),
        },
        ret_token_id=ret_token_ids[0],
        notes=[*notes, *(["It ranks images only: no text targets were trained."] if mapped else [])],
    )


def _first_row(ledger: KeyLedger, key: str, width: int, tokens: list[int]) -> torch.Tensor:
    """The vector of the first token `(1, width)`, out of the rows of these tokens alone, or of a table of all rows."""
    shape = ledger.peek(key).shape
    rows = shape[0] if len(shape) == 2 else 1
    place = 0 if rows == len(tokens) else tokens[0]
    if rows <= place:
        raise ValueError(f"{ledger.source}: {key} has {rows} rows, and [RET] is token {place}.")
    target = f"heads.ret_embedding (row {place}; left out: {rows - 1} other rows)"
    return ledger.take(key, target, (rows, width), (width,))[place : place + 1].clone()
