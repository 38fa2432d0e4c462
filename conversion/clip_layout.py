"""Maps CLIP's tensors between the names of OpenAI and open_clip and those of transformers' `CLIPModel`."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from transformers import CLIPConfig

from conversion.state_dicts import KeyLedger

logger = logging.getLogger(__name__)

_BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
# The tensors that OpenAI's `convert_weights` leaves in single precision: norms, embeddings, the temperature.
_FULL_PRECISION = ("ln_", "embedding", "logit_scale")


@dataclass(frozen=True)
class KeyPair:
    """One tensor of OpenAI's layout and its place in `CLIPModel`: three names for queries, keys and values, which
    OpenAI stacks, and `transposed` where `CLIPModel` has it the other way round."""

    openai: str
    shape: tuple[int, ...]
    hf: tuple[str, ...]
    transposed: bool = False

    @property
    def hf_shape(self) -> tuple[int, ...]:
        """Shape of each tensor in `CLIPModel`."""
        if self.transposed or not self.shape:
            return self.shape[::-1]
        return (self.shape[0] // len(self.hf), *self.shape[1:])


def key_pairs(config: CLIPConfig) -> Iterator[KeyPair]:
    """Every tensor of a CLIP with a vision transformer."""
    text, vision, joint = config.text_config, config.vision_config, config.projection_dim
    width, grid = text.hidden_size, vision.image_size // vision.patch_size
    yield KeyPair("logit_scale", (), ("logit_scale",))
    yield KeyPair(
        "token_embedding.weight", (text.vocab_size, width), ("text_model.embeddings.token_embedding.weight",)
    )
    yield KeyPair(
        "positional_embedding",
        (text.max_position_embeddings, width),
        ("text_model.embeddings.position_embedding.weight",),
    )
    yield from _blocks("transformer", "text_model", text)
    yield from _norm("ln_final", "text_model.final_layer_norm", width)
    yield KeyPair("text_projection", (width, joint), ("text_projection.weight",), transposed=True)

    width, patch = vision.hidden_size, vision.patch_size
    yield KeyPair("visual.class_embedding", (width,), ("vision_model.embeddings.class_embedding",))
    yield KeyPair(
        "visual.positional_embedding", (grid**2 + 1, width), ("vision_model.embeddings.position_embedding.weight",)
    )
    yield KeyPair("visual.conv1.weight", (width, 3, patch, patch), ("vision_model.embeddings.patch_embedding.weight",))
    yield from _norm("visual.ln_pre", "vision_model.pre_layrnorm", width)
    yield from _blocks("visual.transformer", "vision_model", vision)
    yield from _norm("visual.ln_post", "vision_model.post_layernorm", width)
    yield KeyPair("visual.proj", (width, joint), ("visual_projection.weight",), transposed=True)


def _norm(openai: str, hf: str, width: int) -> Iterator[KeyPair]:
    for part in ("weight", "bias"):
        yield KeyPair(f"{openai}.{part}", (width,), (f"{hf}.{part}",))


def _blocks(openai: str, hf: str, config) -> Iterator[KeyPair]:
    width, inner = config.hidden_size, config.intermediate_size
    rows = {"mlp.c_fc": (inner, width), "mlp.c_proj": (width, inner), "attn.out_proj": (width, width)}
    for number in range(config.num_hidden_layers):
        source, target = f"{openai}.resblocks.{number}", f"{hf}.encoder.layers.{number}"
        for part, shape in (("weight", (3 * width, width)), ("bias", (3 * width,))):
            stacked = tuple(f"{target}.self_attn.{letter}_proj.{part}" for letter in "qkv")
            yield KeyPair(f"{source}.attn.in_proj_{part}", shape, stacked)
        for name, renamed in _BLOCK.items():
            shape = rows.get(name, (width,))
            yield KeyPair(f"{source}.{name}.weight", shape, (f"{target}.{renamed}.weight",))
            yield KeyPair(f"{source}.{name}.bias", shape[:1], (f"{target}.{renamed}.bias",))


def to_hf(ledger: KeyLedger, config: CLIPConfig) -> dict[str, torch.Tensor]:
    """Tensors for `CLIPModel(config)` out of OpenAI's layout, in float32. Raises ValueError for a missing tensor or
    shape, or one that is left over."""
    tensors = {}
    for pair in key_pairs(config):
        shapes = [pair.shape] if pair.shape else [(), (1,)]  # open_clip may keep the temperature as a vector
        tensor = ledger.take(pair.openai, ", ".join(pair.hf), *shapes).float()
        parts = [tensor.T] if pair.transposed else tensor.chunk(len(pair.hf)) if pair.shape else [tensor]
        tensors |= {name: part.contiguous().clone() for name, part in zip(pair.hf, parts, strict=True)}
    logger.info("%s", ledger.report())
    return tensors


def to_openai(ledger: KeyLedger, config: CLIPConfig) -> dict[str, torch.Tensor]:
    """Tensors in OpenAI's layout out of those of `CLIPModel(config)`, in float32. Raises: as `to_hf`."""
    tensors = {}
    for pair in key_pairs(config):
        parts = [ledger.take(name, pair.openai, pair.hf_shape).float() for name in pair.hf]
        tensor = parts[0].T if pair.transposed else torch.cat(parts) if len(parts) > 1 else parts[0]
        tensors[pair.openai] = tensor.contiguous().clone()
    logger.info("%s", ledger.report())
    return tensors


def half_as_openai(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """OpenAI's mixture of precisions: linear maps and convolutions in float16, all else in float32."""
    return {
        key: value if any(part in key for part in _FULL_PRECISION) else value.half() for key, value in tensors.items()
    }
