"""The model's part of encoding: prepared contents in, unit vectors out."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import torch

from ..modeling_open_clip import picture_vectors, space_name, text_vectors


class CorpusEncoder:
    """Embeds candidates; the same for one process, torchrun and Ray.

    Args:
        model: with `get_image_features` and `get_text_features`, such as `UniMuRModel`; a `UniVLDRModel` embeds
            images with their captions.
        processor: its own.

    Raises:
        ValueError: a model without a dual encoder.
    """

    def __init__(self, model, processor):
        self.model, self.processor = model, processor
        name = space_name(model, processor)
        if name is None:
            raise ValueError("This model has no dual encoder: its candidates are somebody else's vectors.")
        self.name = name
        self.width: int = model.config.embedding_width

    @classmethod
    def load(cls, folder: str | os.PathLike, device: str | None = None, clip: str | None = None) -> CorpusEncoder:
        """The encoder of a model folder, on an accelerator if there is one and no other `device` is named; `clip` is
        the dual encoder in place of the one that a heads-only model names.

        The language model, which reads dialogues and no candidate, is not loaded where the folder holds heads only.
        """
        from transformers import AutoModelForCausalLM, PreTrainedConfig

        from .. import UniMuRConfig, UniMuRModel, UniMuRProcessor, UniVLDRModel, UniVLDRProcessor

        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        if PreTrainedConfig.get_config_dict(folder)[0].get("model_type") != UniMuRConfig.model_type:
            model = UniVLDRModel.from_pretrained(folder)
            return cls(model.to(device), UniVLDRProcessor.from_pretrained(folder))
        config, instead = UniMuRConfig.from_pretrained(folder), {}
        if config.heads_only:
            with torch.device("meta"):
                instead["language_model"] = AutoModelForCausalLM.from_config(config.text_config)
            instead |= {"clip": clip} if clip else {}
        model = UniMuRModel.from_pretrained(folder, **instead)
        model.language_model = None
        return cls(model.to(device), UniMuRProcessor.from_pretrained(folder))

    def vectors(self, kind: str, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Unit vectors `(items, width)`, float32 on the CPU."""
        return (picture_vectors if kind == "image" else text_vectors)(self.model, inputs)


def folder_stamp(folder: str | os.PathLike) -> str:
    """Changes with the files of a model folder, by names, sizes and times; they are not read."""
    digest = hashlib.sha256(os.fsencode(os.path.abspath(folder)))
    for path in sorted(Path(folder).rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            stat = path.stat()
            digest.update(f"{path.relative_to(folder).as_posix()}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode())
    return digest.hexdigest()[:32]


__all__ = ["CorpusEncoder", "folder_stamp"]
