"""Writes the folder of a release: heads or the full model, code, processor, and the files that
sentence-transformers reads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import PreTrainedModel, ProcessorMixin

from .. import UniMuRConfig, UniMuRModel, UniMuRProcessor
from ..modeling_unimur import LORA, adapter_weights

SENTENCE_TRANSFORMERS_MODULE = Path(__file__).with_name("sentence_transformers_unimur.py")
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_HEADS = "heads."


def read_heads(folder: Path) -> dict[str, torch.Tensor]:
    """The trained tensors in a folder's weights: those of the heads without their prefix, and adapters on the language
    model.

    Raises:
        FileNotFoundError: there are no weights in safetensors.
        ValueError: the weights hold no heads.
    """
    if (folder / _INDEX).is_file():
        places = json.loads((folder / _INDEX).read_text(encoding="utf-8"))["weight_map"]
        files = sorted({folder / file for file in places.values()})
    else:
        files = [folder / _WEIGHTS]
    heads = {}
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(
                f"{file} is not there: a release is made of weights in safetensors; `save_pretrained` writes them."
            )
        with safe_open(file, framework="pt") as opened:
            for key in opened.keys():  # noqa: SIM118 (it is no dictionary)
                if key.startswith(_HEADS) or LORA in key:
                    heads[key.removeprefix(_HEADS)] = opened.get_tensor(key)
    if not heads:
        raise ValueError(f"{folder} contains no trained heads (no weight begins with {_HEADS!r}).")
    return heads


def write_heads(
    folder: Path, config: UniMuRConfig, heads: dict[str, torch.Tensor], processor: UniMuRProcessor
) -> None:
    """Writes a heads-only release without its card; the backbones are not needed. `heads` are the tensors of
    `UniMuRHeads`, and adapters on the language model.

    Raises:
        ValueError: these are not the tensors that such a model has.
    """
    adapters = {key: heads[key] for key in heads if LORA in key}
    if adapters and not config.lora:
        raise ValueError(
            f"The weights hold an adapter on a backbone ({min(adapters)}) that config.json does not name (lora), and "
            "heads alone leave it out: release it whole (--full)."
        )
    heads = {key: tensor for key, tensor in heads.items() if key not in adapters}
    dtypes = {tensor.dtype for tensor in heads.values()}
    dtype = dtypes.pop() if len(dtypes) == 1 else torch.float32
    with torch.device("meta"):  # the backbones are not written, so they need no memory
        model = UniMuRModel(config)
    model.to(dtype)
    own_adapters = {f"language_model.{key}": value for key, value in adapter_weights(model.language_model).items()}
    for what, given, own in (("heads", heads, model.heads.state_dict()), ("adapters", adapters, own_adapters)):
        if {key: value.shape for key, value in given.items()} != {key: value.shape for key, value in own.items()}:
            raise ValueError(f"The {what} given are {sorted(given)}; the model has {sorted(own)}, or other shapes.")
    model.load_state_dict(adapters, strict=False, assign=True)
    model.heads.load_state_dict({k: v.to(dtype).contiguous().clone() for k, v in heads.items()}, assign=True)
    write_model(folder, model, processor, heads_only=True)


def write_model(folder: Path, model: PreTrainedModel, processor: ProcessorMixin, **options: bool) -> None:
    """Writes a release without its card; `options` are those of `model.save_pretrained`: of UniMuR `heads_only`."""
    model.save_pretrained(folder, **options)
    processor.save_pretrained(folder)
    write_sentence_transformers(folder)


def write_sentence_transformers(folder: Path) -> None:
    """Writes what `SentenceTransformer(folder, trust_remote_code=True)` reads, and the module that it runs."""
    module = {"idx": 0, "name": "0", "path": "", "type": f"{SENTENCE_TRANSFORMERS_MODULE.stem}.UniMuRTransformer"}
    config = {
        "model_type": "SentenceTransformer",
        "prompts": {"query": "", "document": ""},
        "default_prompt_name": None,
        "similarity_fn_name": "cosine",
    }
    for name, content in (("modules.json", [module]), ("config_sentence_transformers.json", config)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    shutil.copyfile(SENTENCE_TRANSFORMERS_MODULE, folder / SENTENCE_TRANSFORMERS_MODULE.name)
