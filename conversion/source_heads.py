"""FROMAGe's own computation on the tensors of a checkpoint, and a release's comparison with it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional as F

from conversion.state_dicts import require_equal
from modeling_unimur import UniMuRConfig, UniMuRModel, UniMuRProcessor
from modeling_unimur.modeling_unimur import UniMuRHeads

logger = logging.getLogger(__name__)

# Contexts on which a release is compared with its source; nothing in them is special to a model.
CHECK_TEXTS = ("a cat slept on my keyboard", "Q: is it sunny? A: yes, very. Q: what colour is the boat? A: red.")
_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 3e-3}

Linear = tuple[torch.Tensor, torch.Tensor]


@dataclass
class SourceHeads:
    """FROMAGe's computation on the tensors of a checkpoint (`FromageModel.forward`, GILL's `GILLModel`).

    Args:
        ret_row: input vector of [RET] `(width,)`.
        visual_embeddings: weight and bias that make an image into `visual_tokens` input vectors.
        text_fcs, layers: weight and bias of each layer that is read, and indices of those hidden states.
        visual_fc: weight and bias of candidate images; None where they stay as CLIP projects them.
    """

    ret_row: torch.Tensor
    visual_embeddings: Linear
    text_fcs: list[Linear]
    layers: list[int]
    visual_fc: Linear | None
    visual_tokens: int

    def input_vectors(self, pooled: torch.Tensor) -> torch.Tensor:
        """Pooled images `(images, width)` to `(images * visual_tokens, language width)`."""
        return F.linear(pooled, *_like(self.visual_embeddings, pooled)).reshape(-1, len(self.ret_row))

    def query(self, hidden: list[torch.Tensor]) -> torch.Tensor:
        """Hidden states at [RET], one `(batch, width)` a layer, to unit vectors."""
        mapped = [F.linear(state, *_like(fc, state)) for state, fc in zip(hidden, self.text_fcs, strict=True)]
        summed = torch.stack(mapped, dim=-1).sum(dim=-1)
        return summed / summed.norm(dim=-1, keepdim=True)

    def candidate(self, pooled: torch.Tensor, projected: torch.Tensor) -> torch.Tensor:
        """Images, pooled and projected, to unit vectors."""
        mapped = projected if self.visual_fc is None else F.linear(pooled, *_like(self.visual_fc, pooled))
        return mapped / mapped.norm(dim=-1, keepdim=True)


def _like(linear: Linear, tensor: torch.Tensor) -> Linear:
    return linear[0].to(tensor), linear[1].to(tensor)


# -- a release against it -------------------------------------------------------------------------------------------
@torch.no_grad()
def verify_heads(folder: Path, config: UniMuRConfig, source: SourceHeads) -> float:
    """Compares the trained maps in a release's file with the source's, on random features.

    Returns:
        The largest difference, as a share of the largest value.

    Raises:
        ValueError: a map computes something else.
    """
    heads = UniMuRHeads(config)
    written = load_file(folder / "model.safetensors")
    heads.load_state_dict({key.removeprefix("heads."): value.float() for key, value in written.items()})
    generator = torch.Generator().manual_seed(0)
    states = [torch.randn(4, config.language_width, generator=generator) for _ in source.layers]
    pooled = torch.randn(4, config.pooled_width, generator=generator)
    projected = torch.randn(4, config.joint_width, generator=generator)
    target = pooled if config.map_image_targets else projected
    worst = max(
        require_equal(heads.unify([state[:, None] for state in states]), source.query(states), "The text map", 1e-5),
        require_equal(heads.visual_inputs(pooled), source.input_vectors(pooled), "The image's input vectors", 1e-5),
        require_equal(heads.image_target(target), source.candidate(pooled, projected), "The image's map", 1e-5),
        require_equal(heads.ret_embedding[0], source.ret_row, "The vector of [RET]", 0.0),
    )
    logger.info("The maps equal the source's within %.1e", worst)
    return worst


@torch.no_grad()
def verify_release(model: UniMuRModel, processor: UniMuRProcessor, source: SourceHeads, tokenizer) -> float:
    """Compares the embeddings of a release (with its backbones) with those of the source's heads on the same
    backbones: an image, contexts of text, and such with an image in them. `tokenizer` is the language model's own.

    Returns:
        The largest difference, as a share of the largest value.

    Raises:
        ValueError: an embedding differs.
    """
    tolerance = _TOLERANCE[model.dtype]
    noise = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    pixel_values = processor.process_images([image])["pixel_values"].to(model.clip.dtype)
    pooled = model.clip.vision_model(pixel_values).pooler_output
    expected = source.candidate(pooled, model.clip.visual_projection(pooled))
    found = model.get_image_features(pixel_values).pooler_output
    worst = require_equal(found, expected, "The embedding of an image", tolerance)
    for before in CHECK_TEXTS:
        for shown, after in ((None, ""), (pooled, " and that is all")):
            content = [{"type": "text", "text": before}]
            if shown is not None:
                content += [{"type": "image", "image": image}, {"type": "text", "text": after}]
            batch = processor.process_context([[{"role": "user", "content": content}]])
            found = model.get_multimodal_features(**batch).pooler_output
            expected = _source_query(model, source, tokenizer, before, shown, after)
            what = f"The embedding of {before!r}" + (" and an image" if shown is not None else "")
            worst = max(worst, require_equal(found, expected, what, tolerance))
    logger.info("Embeddings of texts and images equal the source's within %.1e", worst)
    return worst


def _source_query(model, source: SourceHeads, tokenizer, before: str, pooled, after: str) -> torch.Tensor:
    """`before`, an image and `after`, then [RET], as `Fromage.generate_for_images_and_texts` joins them."""
    table = model.language_model.get_input_embeddings()
    parts = [table(torch.tensor(tokenizer(before).input_ids))]  # with the start token
    if pooled is not None:
        parts.append(source.input_vectors(pooled).to(parts[0]))
        parts.append(table(torch.tensor(tokenizer(after, add_special_tokens=False).input_ids)))
    parts.append(source.ret_row[None].to(parts[0]))
    out = model.language_model(inputs_embeds=torch.cat(parts)[None], use_cache=False, output_hidden_states=True)
    return source.query([out.hidden_states[layer][:, -1] for layer in source.layers])
