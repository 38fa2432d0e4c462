"""LoRA adapters on the language model: merged into its weights and out of them again."""

from __future__ import annotations

from ..modeling_unimur import UniMuRModel, adapter_layers


def merge(model: UniMuRModel) -> None:
    """Adds the adapters' products to the weights of the language model, in place: as fast as without adapters. Queries
    are the same up to rounding, and chats begin anew.

    Args:
        model: with `config.lora`; one without is left as it is.
    """
    for layer in adapter_layers(model.language_model):
        layer.merge()


def unmerge(model: UniMuRModel) -> None:
    """Undoes `merge`, up to rounding."""
    for layer in adapter_layers(model.language_model):
        if layer.merged:
            layer.unmerge()


def fold(model: UniMuRModel) -> UniMuRModel:
    """Makes the adapters part of the language model's weights for good, in place. Such a model needs no peft, is saved
    whole, and no longer names the language model that it began with.

    Args:
        model: with `config.lora`.

    Returns:
        `UniMuRModel`: the same one, frozen but for its heads.

    Raises:
        ValueError: the model has no adapters.
    """
    if not model.config.lora:
        raise ValueError("This model has no adapters (config.lora): there is nothing to fold into its weights.")
    merge(model)
    wrapped = {name: layer for name, layer in model.language_model.named_modules() if hasattr(layer, "lora_A")}
    for name, layer in wrapped.items():
        parent, _, child = name.rpartition(".")
        setattr(model.language_model.get_submodule(parent), child, layer.get_base_layer())
    model.config.lora = model.config.text_base_model = model.config.text_base_revision = None
    model.config.heads_only = False
    model.freeze_backbones()
    return model
