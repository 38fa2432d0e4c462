"""Configurations of open_clip and of transformers' CLIP, each from the other where both describe one computation."""

from __future__ import annotations

from typing import Any

from transformers import CLIPConfig

# Without effect on the features: how weights are initialised, dropped in training or given out; the tokenizer, which
# is converted on its own; a final norm before or after taking one token, which is the same.
_FREE = {
    "patch_dropout", "pos_embed_type", "final_ln_after_pool", "output_tokens", "attn_pooler_queries",
    "attn_pooler_heads", "hf_tokenizer_name", "tokenizer_mode", "tokenizer_kwargs", "hf_model_pretrained",
    "hf_proj_type", "hf_pooler_type", "pad_id",
}  # fmt: skip
# What CLIPModel computes; any other part is off there.
_FIXED = {"vision_cfg.pool_type": "tok", "text_cfg.proj_type": "linear"}
_READ_BY_BOTH = {"layers", "width", "mlp_ratio", "act_kwargs", "norm_kwargs"}
_READ = {
    "vision": _READ_BY_BOTH | {"head_width", "patch_size", "image_size"},
    "text": _READ_BY_BOTH | {"context_length", "vocab_size", "heads", "eos_id", "pool_type"},
}
_WHOLE = {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "custom_text", "init_logit_scale", "init_logit_bias"}
_REMEDY = "CLIPModel has no such part; keep it in open_clip, behind OpenCLIPModel.from_open_clip."
# Activations by their name in transformers: quick_gelu of open_clip, act_kwargs of open_clip.
_ACTIVATIONS: dict[str, tuple[bool, dict | None]] = {
    "quick_gelu": (True, None),
    "gelu": (False, None),
    "gelu_pytorch_tanh": (False, {"approximate": "tanh"}),
}


def _refuse(name: str, value: Any) -> ValueError:
    return ValueError(f"This open_clip model has {name}={value!r}: {_REMEDY}")


def _square(name: str, value: Any) -> int:
    sides = list(value) if isinstance(value, (list, tuple)) else [value]
    if len(set(sides)) != 1:
        raise _refuse(name, value)
    return sides[0]


def _activation(part: dict, quick_gelu: bool) -> str:
    kwargs = part.get("act_kwargs") or None
    for name, described in _ACTIVATIONS.items():
        if described == (quick_gelu, kwargs):
            return name
    raise _refuse("act_kwargs", kwargs)


def _eps(part: dict) -> float:
    kwargs = dict(part.get("norm_kwargs") or {})
    eps = kwargs.pop("eps", 1e-5)
    if kwargs:
        raise _refuse("norm_kwargs", part["norm_kwargs"])
    return eps


def _ratio(inner: int, width: int) -> float:
    """A factor that open_clip, which rounds down, brings from `width` to `inner`."""
    ratio = inner / width
    return ratio if int(width * ratio) == inner else (inner + 0.5) / width


def clip_config(model_cfg: dict) -> CLIPConfig:
    """The configuration of the `CLIPModel` that computes what an open_clip model computes.

    Args:
        model_cfg: open_clip's own (`embed_dim`, `vision_cfg`, `text_cfg`, ...).

    Raises:
        ValueError: there is none; it names the part and its value.
    """
    unknown = sorted(model_cfg.keys() - _WHOLE)
    if unknown:
        raise _refuse(unknown[0], model_cfg[unknown[0]])
    if model_cfg.get("init_logit_bias") is not None:
        raise _refuse("init_logit_bias", model_cfg["init_logit_bias"])
    vision, text = model_cfg["vision_cfg"], model_cfg["text_cfg"]
    for name, part in (("vision", vision), ("text", text)):
        for key, value in part.items():
            place = f"{name}_cfg.{key}"
            known = key in _FREE | _READ[name] or (key.startswith("timm_") and key != "timm_model_name")
            if value and not known and value != _FIXED.get(place):
                raise _refuse(place, value)
    if isinstance(vision.get("layers", 12), (list, tuple)):
        raise _refuse("vision_cfg.layers (a ResNet)", vision["layers"])
    quick = bool(model_cfg.get("quick_gelu", False))
    text_width, vision_width = text.get("width", 512), vision.get("width", 768)
    vocabulary = text.get("vocab_size", 49408)
    pool = text.get("pool_type", "argmax")
    # transformers takes 2 for a sign of old files and then reads the highest id, as argmax does.
    if pool not in ("argmax", "eos") or (pool == "eos" and text.get("eos_id", 2) == 2):
        raise _refuse("text_cfg.pool_type", f"{pool} of id {text.get('eos_id', 2)}" if pool == "eos" else pool)
    return CLIPConfig(
        projection_dim=model_cfg["embed_dim"],
        text_config={
            "vocab_size": vocabulary,
            "hidden_size": text_width,
            "intermediate_size": int(text_width * text.get("mlp_ratio", 4.0)),
            "num_hidden_layers": text.get("layers", 12),
            "num_attention_heads": text.get("heads", 8),
            "max_position_embeddings": text.get("context_length", 77),
            "hidden_act": _activation(text, quick),
            "layer_norm_eps": _eps(text),
            "projection_dim": model_cfg["embed_dim"],
            "bos_token_id": vocabulary - 2,
            "eos_token_id": text["eos_id"] if pool == "eos" else vocabulary - 1,
            "pad_token_id": text.get("pad_id", 0),
        },
        vision_config={
            "hidden_size": vision_width,
            "intermediate_size": int(vision_width * vision.get("mlp_ratio", 4.0)),
            "num_hidden_layers": vision.get("layers", 12),
            "num_attention_heads": vision_width // vision.get("head_width", 64),
            "image_size": _square("vision_cfg.image_size", vision.get("image_size", 224)),
            "patch_size": _square("vision_cfg.patch_size", vision.get("patch_size", 16)),
            "hidden_act": _activation(vision, quick),
            "layer_norm_eps": _eps(vision),
            "projection_dim": model_cfg["embed_dim"],
        },
    )


def open_clip_config(config: CLIPConfig) -> dict:
    """open_clip's configuration of the model that computes what a `CLIPModel` computes.

    Raises:
        ValueError: there is none; it names the part and its value.
    """
    text, vision = config.text_config, config.vision_config
    activations = {text.hidden_act, vision.hidden_act}
    if not activations <= _ACTIVATIONS.keys() or len({_ACTIVATIONS[name][0] for name in activations}) != 1:
        raise ValueError(
            f"The towers of this CLIP have the activations {sorted(activations)}; open_clip has one of quick_gelu, or "
            "gelu with or without tanh, for both."
        )
    if vision.hidden_size % vision.num_attention_heads or getattr(vision, "num_channels", 3) != 3:
        raise ValueError("open_clip's vision transformer reads three channels, with heads of equal width.")

    def tower(part) -> dict:
        cfg: dict = {
            "width": part.hidden_size,
            "layers": part.num_hidden_layers,
            "mlp_ratio": _ratio(part.intermediate_size, part.hidden_size),
        }
        if _ACTIVATIONS[part.hidden_act][1]:
            cfg["act_kwargs"] = dict(_ACTIVATIONS[part.hidden_act][1])
        if part.layer_norm_eps != 1e-5:
            cfg["norm_kwargs"] = {"eps": part.layer_norm_eps}
        return cfg

    # 2 is the mark of old files, whose texts end at their highest id.
    last = text.eos_token_id in (2, text.vocab_size - 1)
    return {
        "embed_dim": config.projection_dim,
        "quick_gelu": _ACTIVATIONS[text.hidden_act][0],
        "vision_cfg": {
            **tower(vision),
            "image_size": _square("image_size", vision.image_size),
            "patch_size": _square("patch_size", vision.patch_size),
            "head_width": vision.hidden_size // vision.num_attention_heads,
        },
        "text_cfg": {
            **tower(text),
            "context_length": text.max_position_embeddings,
            "vocab_size": text.vocab_size,
            "heads": text.num_attention_heads,
            **({} if last else {"pool_type": "eos", "eos_id": text.eos_token_id}),
        },
    }
