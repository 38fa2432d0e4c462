"""Loading that never leaves a weight at random."""


def require_complete(loading_info: dict, source: str) -> None:
    """Raises when a file did not hold every weight of the model.

    Args:
        loading_info (`dict`): what `from_pretrained(..., output_loading_info=True)` returns beside the model.
        source (`str`): where the weights come from, for the message.

    Raises:
        ValueError: naming the first missing or misshapen weights.
    """
    missing = sorted(loading_info.get("missing_keys") or ())
    misshapen = sorted(str(key) for key in loading_info.get("mismatched_keys") or ())
    if not missing and not misshapen:
        return
    shown = ", ".join((missing + misshapen)[:4])
    unexpected = sorted(loading_info.get("unexpected_keys") or ())
    hint = f" It holds {len(unexpected)} keys under other names, such as {unexpected[0]}." if unexpected else ""
    raise ValueError(
        f"{source} lacks {len(missing) + len(misshapen)} weights of this model ({shown}); they would be random.{hint} "
        "Use a file of this very model, or convert it first."
    )


class CompleteLoadingMixin:
    """Makes `from_pretrained` refuse a file that lacks weights of the model."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, output_loading_info: bool = False, **kwargs):
        misshapen_allowed = kwargs.pop("ignore_mismatched_sizes", False)
        model, info = super().from_pretrained(
            pretrained_model_name_or_path,
            *args,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # else the error would not say which
            **kwargs,
        )
        checked = {**info, "mismatched_keys": ()} if misshapen_allowed else info
        require_complete(checked, str(pretrained_model_name_or_path))
        return (model, info) if output_loading_info else model


__all__ = ["CompleteLoadingMixin", "require_complete"]
