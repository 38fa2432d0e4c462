"""Candidates as unit vectors, and a name for the space that they lie in."""

import hashlib
import os
import re

import numpy as np
import torch

from .image_loading import Image

_BITS = 128
# Of 128 bits: other numbers (bfloat16) or another way to decode pictures turn 1 or 2, another model about 64.
_MOST_TURNED = 4
_DIGITS = _BITS // 4
_NAME = re.compile(rf"(.*)@((?:[0-9a-f]{{{_DIGITS}}}){{2,3}})", re.DOTALL)
_PROBE = "a photo of a cat on a red chair"


def picture_inputs(processor, pictures: list, payloads: "list[dict]"):
    """What a model embeds pictures by: with the `caption` of their payloads, if it fuses them (UniVL-DR)."""
    captions = [text if isinstance(text := payload.get("caption"), str) else None for payload in payloads]
    if any(captions) and fuses_captions(processor):
        return processor.process_documents(pictures, captions)
    return processor.process_images(pictures)


def fuses_captions(processor) -> bool:
    """Whether a processor is that of a model that fuses pictures with their captions."""
    return hasattr(processor, "process_documents")


@torch.inference_mode()
def picture_vectors(model, inputs) -> torch.Tensor:
    """Unit vectors `(pictures, width)`, float32 on the CPU, of what `picture_inputs` returns."""
    embed = model.get_multimodal_features if "input_ids" in inputs else model.get_image_features
    return _unit(embed(**_placed(model, inputs)).pooler_output)


@torch.inference_mode()
def text_vectors(model, inputs) -> torch.Tensor:
    """Unit vectors `(texts, width)`, float32 on the CPU, of what `processor.process_texts` returns."""
    return _unit(model.get_text_features(**_placed(model, inputs)).pooler_output)


def _placed(model, inputs) -> dict:
    return {key: value.to(model.device) for key, value in inputs.items()}


def _unit(vectors: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(vectors.float(), dim=-1).cpu()


def space_name(model, processor) -> "str | None":
    """Name and revision of the space of a model's candidates, `"unimur-mini@<64 hexadecimal digits>"`.

    The revision is computed: signs of the vectors of a fixed text, of a fixed picture, and (96 digits) of the two
    fused by a model that does, along 128 fixed directions each. It is the same wherever the model lies, and for all
    heads that leave the dual encoder's space as it is; see `same_space` for how two are compared.

    Returns:
        `str`, or None for a model without a dual encoder, whose candidates are somebody else's vectors.
    """
    if model.clip is None:
        return None
    side = np.arange(64)
    picture = np.stack(np.broadcast_arrays(4 * side[:, None], 4 * side, side[:, None] * side % 256), axis=-1)
    # The same weights make another space where candidates are prepared otherwise; plain text and a square hide it.
    squashed, cleaning = getattr(processor, "squash_images", False), getattr(processor, "clean_text", None)
    image = Image.fromarray((255 - picture if squashed else picture).astype(np.uint8))
    probe = _PROBE if cleaning is None else f"texts that are cleaned as by {cleaning}"
    signs = _signs(picture_vectors(model, processor.process_images([image]))[0].numpy())
    try:
        signs = _signs(text_vectors(model, processor.process_texts([probe]))[0].numpy()) + signs
    except ValueError:  # heads that rank pictures alone
        signs = "0" * _DIGITS + signs
    if fuses_captions(processor):
        fused = picture_vectors(model, picture_inputs(processor, [image], [{"caption": probe}]))
        signs += _signs(fused[0].numpy())
    name = os.path.basename(os.path.normpath(model.name_or_path)) if model.name_or_path else "unimur"
    return f"{name}@{signs}"


def _signs(vector: np.ndarray) -> str:
    drawn = hashlib.shake_256(b"directions").digest(_BITS * len(vector) // 8 + 1)
    bits = np.unpackbits(np.frombuffer(drawn, np.uint8))[: _BITS * len(vector)].reshape(_BITS, len(vector))
    return np.packbits((2.0 * bits - 1) @ vector > 0).tobytes().hex()


def same_space(name: str, other: str) -> bool:
    """Whether two names of `space_name` are those of one space; other names are compared as they are."""
    found, wanted = _NAME.fullmatch(name), _NAME.fullmatch(other)
    if not (found and wanted):
        return name == other
    if len(found[2]) != len(wanted[2]):
        return False
    parts = [slice(start, start + _DIGITS) for start in range(0, len(found[2]), _DIGITS)]
    turned = [(int(found[2][part], 16) ^ int(wanted[2][part], 16)).bit_count() for part in parts]
    return max(turned) <= _MOST_TURNED


__all__ = ["fuses_captions", "picture_inputs", "picture_vectors", "same_space", "space_name", "text_vectors"]
