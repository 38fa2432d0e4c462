"""The encoder that made somebody's vectors, to put further texts into the same space."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm.auto import tqdm
from transformers import AutoModel, AutoTokenizer, PreTrainedConfig

from ..configuration_open_clip import OpenCLIPConfig
from ..evaluation.systems.sentence_transformer import load_sentence_transformer
from ..modeling_open_clip import OpenCLIPModel
from .frozen_towers import TextEncoder

_DUAL_ENCODERS = ("clip", "siglip", "siglip2", OpenCLIPConfig.model_type)
_BATCH = 64


@dataclass
class TextSpace:
    """Texts to unit vectors.

    Args:
        name: Hub id or folder.
        encode: a list of texts to `(texts, width)`, as candidates.
        encode_query: the same as queries, for encoders that have a form of their own for them.
    """

    name: str
    encode: Callable[[list[str]], torch.Tensor]
    encode_query: Callable[[list[str]], torch.Tensor]

    def __call__(self, texts: Sequence[str], query: bool = False, desc: str = "Encoding texts") -> torch.Tensor:
        """Unit vectors `(texts, width)`, with a progress bar; texts of like length run together."""
        order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
        encode, parts = self.encode_query if query else self.encode, []
        for start in tqdm(range(0, len(order), _BATCH), desc=desc, leave=False):
            found = encode([texts[number] for number in order[start : start + _BATCH]])
            parts.append(torch.nn.functional.normalize(found.float().cpu(), dim=-1))
        embeds = torch.cat(parts)
        return torch.empty_like(embeds).index_copy_(0, torch.tensor(order), embeds)


def load_text_space(source: str | os.PathLike) -> TextSpace:
    """The text tower of a CLIP, SigLIP or open_clip model, or any model of sentence-transformers.

    Args:
        source: Hub id or folder.

    Raises:
        ValueError: when there is no such model.
        ImportError: without the library that runs it.
    """
    name = os.fspath(source)
    try:
        about = {} if Path(name, "modules.json").is_file() else PreTrainedConfig.get_config_dict(name)[0]
    except OSError:  # a sentence-transformers model may have no configuration of its own at the top
        about = {}
    kind = about.get("model_type")
    if kind in _DUAL_ENCODERS:
        cls = OpenCLIPModel if kind == OpenCLIPConfig.model_type else AutoModel
        clip = cls.from_pretrained(name).eval()
        encode = torch.inference_mode()(TextEncoder(clip, AutoTokenizer.from_pretrained(name)))
        return TextSpace(name, encode, encode)
    model = load_sentence_transformer(name)
    settings = {"convert_to_tensor": True, "show_progress_bar": False}
    return TextSpace(
        name,
        lambda texts: model.encode_document(texts, **settings),
        lambda texts: model.encode_query(texts, **settings),
    )


__all__ = ["TextSpace", "load_text_space"]
