"""Which parts of a UniVL-DR model train."""

from torch import nn

from .frozen_towers import frozen_towers


def choose_trained_parts(model, tokenizer, image_tower: str = "trained", text_layers: "int | None" = None) -> None:
    """Freezes what a recipe does not train, in place.

    What no loss of contrastive training reads is frozen in any case: SigLIP's bias, the image side where captions
    alone make up a document, and the classifier of a `PictureHead`, which is the frozen tower's own.

    Args:
        model (`UniVLDRModel`): all of whose weights train so far.
        tokenizer: the dual encoder's.
        image_tower: `"trained"`; `"frozen"`: all of the image tower but its projection into the joint space; or
            `"unused"`, the projection as well.
        text_layers (*optional*): top layers of the text tower that train, with what follows them; all of the tower by
            default. 0 leaves what follows the layers.

    Raises:
        ValueError: the text tower has fewer layers, or they cannot be told.
    """
    clip, towers = model.clip, frozen_towers(model.clip, tokenizer)
    for name, weight in clip.named_parameters():
        if name.endswith("logit_bias") or ".head.classifier." in name:
            weight.requires_grad_(False)
    reads_captions_alone = image_tower == "unused" or model.config.fusion == "caption"
    if image_tower == "frozen" or reads_captions_alone:
        towers.image_tower.requires_grad_(False)
    if reads_captions_alone:
        for part in (getattr(clip, "visual_projection", None), getattr(getattr(clip, "model", None), "visual", None)):
            if part is not None:
                part.requires_grad_(False)
    if text_layers is not None:
        _freeze_lower_text(_text_parts(clip, towers), text_layers)


def _text_parts(clip, towers) -> "dict[str, nn.Module | nn.Parameter]":
    """The text side by name, without the image side."""
    if towers.text_tower is not getattr(clip, "model", None):
        return {"text": towers.text_tower}
    # open_clip's own text tower lies beside the image tower, in parts.
    names = ("token_embedding", "positional_embedding", "transformer", "ln_final", "text_projection")
    found = {name: getattr(clip.model, name, None) for name in names}
    return {name: part for name, part in found.items() if part is not None}


def _freeze_lower_text(parts: "dict[str, nn.Module | nn.Parameter]", kept: int) -> None:
    modules = [part for part in parts.values() if isinstance(part, nn.Module)]
    lists = [m for part in modules for m in part.modules() if isinstance(m, nn.ModuleList)]
    stacks = [m for m in lists if not any(m is top for top in modules)]
    if not stacks:
        raise ValueError("The text tower's layers cannot be told: leave model.text_layers out.")
    layers = max(stacks, key=len)
    if kept > len(layers):
        raise ValueError(f"The text tower has {len(layers)} layers, not {kept} (model.text_layers).")
    for layer in layers[: len(layers) - kept]:
        layer.requires_grad_(False)
    for name, part in parts.items():
        weights = part.named_parameters(name) if isinstance(part, nn.Module) else [(name, part)]
        for full_name, weight in weights:
            if "embedding" in full_name:
                weight.requires_grad_(False)


__all__ = ["choose_trained_parts"]
