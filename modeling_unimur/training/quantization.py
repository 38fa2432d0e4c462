"""Quantization of the frozen language model; trained tensors stay float32."""

import importlib.util

import torch
from torch import nn

# Recipe's word -> the library that packs weights so, as it is imported.
KINDS = {"int8": "torchao", "int4": "torchao", "nf4": "bitsandbytes"}


def quantization_config(kind: "str | None", dtype: torch.dtype = torch.bfloat16):
    """Returns the `quantization_config` of `AutoModelForCausalLM.from_pretrained` for a frozen language model.

    The input table and the output layer stay as they are: [RET] stands among the one's rows, and the next-token losses
    read the other's.

    Args:
        kind (`str`, *optional*): `int8` (torchao, one byte a weight, a scale a row), `nf4` (bitsandbytes, half a byte
            a weight, blocks of 64 with quantised scales as in QLoRA), or `int4` (torchao, groups of 128, only where
            mslk has kernels for the GPU). `None` gives None.
        dtype (`torch.dtype`): what `nf4` is unpacked to for each product.

    Raises:
        ValueError: for another kind.
        ImportError: when its library is not installed; the message names the extra.
    """
    if kind is None:
        return None
    if kind not in KINDS:
        raise ValueError(f"model.language_model_quantization must be one of {', '.join(KINDS)}, got {kind!r}.")
    if importlib.util.find_spec(KINDS[kind]) is None:
        raise ImportError(f"{kind} weights need {KINDS[kind]}: pip install unimur[quantized]")
    if kind == "int4" and importlib.util.find_spec("mslk") is None:
        raise ImportError("int4 weights need the GPU kernels of mslk; nf4 is as small and runs without them.")
    from transformers import BitsAndBytesConfig, TorchAoConfig

    if kind == "nf4":
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    from torchao.quantization import Int4WeightOnlyConfig, Int8WeightOnlyConfig

    # The inductor's settings are the whole process's, and nothing is compiled here.
    chosen = Int8WeightOnlyConfig if kind == "int8" else Int4WeightOnlyConfig
    return TorchAoConfig(chosen(set_inductor_config=False))


def prepare_quantised(language_model: nn.Module) -> None:
    """Makes sure that a quantised language model can be trained through: its packed weights stay as they are, and a
    gradient passes them, which is how [RET] learns. Some kernels for packed weights have no derivative, and then the
    gradient is not absent but wrong: only what goes around them arrives.

    Raises:
        ValueError: when the language model has no packed layer, or its derivative is wrong.
    """
    name = type(language_model).__name__
    linear = (module for module in language_model.modules() if isinstance(module, nn.Linear))
    layers = [module for module in linear if type(module.weight) is not nn.Parameter]
    if not layers:
        raise ValueError(f"No layer of {name} was quantised: leave language_model_quantization out.")
    for layer in layers:
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            # bitsandbytes would repack the weights at the first pass without a gradient, for a kernel that has none.
            layer.support_avx512bf16_for_cpu = False
    layer = layers[0]
    states, other = torch.randn(2, 2, 3, layer.in_features, generator=torch.Generator().manual_seed(0)).to(
        layer.weight.device, language_model.dtype
    )
    with torch.no_grad():
        # The product is linear: its change along `other` is its derivative there, up to rounding.
        change = layer(other).double() - layer(torch.zeros_like(other)).double()
        weights = change.sign()
    try:
        states.requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad((layer(states).double() * weights).sum(), states)
        found, wanted = (gradient.double() * other.double()).sum(), (change * weights).sum()
        reason = None if torch.isclose(found, wanted, rtol=0.05) else f"{found:.3g} in place of {wanted:.3g}"
    except (RuntimeError, NotImplementedError) as error:
        reason = str(error).split("\n")[0]
    if reason:
        raise ValueError(
            f"The quantised layers of {name} have no right derivative on {states.device.type} ({reason}), so [RET] "
            "could not learn: choose another language_model_quantization (nf4, int8)."
        )
